"""EAGLE-style head: the target's features continued one token at a time; and Dovetail's variant of it.

Li et al. 2024, arXiv:2401.15077, section 4: features of token t and the embedding of token t + 1 give the
features of token t + 1, which the target's own output matrix turns into a distribution for token t + 2. One
decoder layer attends over all pairs so far. Trained with the features (smooth L1) and with the target's
distributions.

``fusion = "gate"`` is Dovetail's dynamic gating fusion (Zhang et al. 2024, arXiv:2412.18934, section 3.2):
a = W1 h, b = SiLU(W2 e), z = sigmoid(Wz [a; b]), input z a + (1 - z) b, instead of one matrix over [e; h].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from workbench.heads.blocks import Layer, Memory
from workbench.heads.distil import Batch, Guesses, Head, Scores, towards
from workbench.heads.spec import HeadSpec
from workbench.heads.target import Target

#: Weight of the distance between features, and the noise on the features that are read: a draft reads
#: features that are guesses.
FEATURES, NOISE = 0.2, 0.1


class Linear(nn.Module):
    """One matrix over [e; h]; at the start it passes h."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both = nn.Linear(2 * width, width)
        with torch.no_grad():
            self.both.weight[:, width:] = torch.eye(width)

    def forward(self, state: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        return self.both(torch.cat([token, state], -1))


class Gate(nn.Module):
    """Dovetail's dynamic gating fusion."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.state, self.token = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(2 * width, width)
        for matrix in (self.state, self.token, self.gate):
            nn.init.xavier_uniform_(matrix.weight)

    def forward(self, state: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        a, b = self.state(state), F.silu(self.token(token))
        z = torch.sigmoid(self.gate(torch.cat([a, b], -1)))
        return z * a + (1 - z) * b


class Eagle(Head):
    """``options``: ``fusion`` (linear, gate), ``layers``, ``heads``, ``kv_heads``, ``inner``."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        o = spec.options
        self.fuse = Gate(spec.hidden) if o["fusion"] == "gate" else Linear(spec.hidden)
        self.layers = nn.ModuleList(
            Layer(spec.hidden, o["heads"], o["kv_heads"], o["inner"], first_norm=i > 0)
            for i in range(o["layers"]))

    def begin_as(self, other: Eagle) -> None:
        """Start from a trained head with linear fusion and one layer: its layer first, further layers as
        identities, the gate half open (SiLU(x) is about x / 2 near zero)."""
        assert isinstance(self.fuse, Gate)
        assert isinstance(other.fuse, Linear)
        width = self.spec.hidden
        self.layers[0].load_state_dict(other.layers[0].state_dict())
        with torch.no_grad():
            for name, values in self.layers[1:].named_parameters():
                if name.endswith(("out.weight", "down.weight")):
                    values.zero_()
            self.fuse.token.weight.copy_(4 * other.fuse.both.weight[:, :width])
            self.fuse.state.weight.copy_(2 * other.fuse.both.weight[:, width:])
            self.fuse.gate.weight.mul_(0.1)
            self.fuse.gate.bias.zero_()

    def forward(self, state: torch.Tensor, token: torch.Tensor, places: torch.Tensor,
                mask: torch.Tensor | None = None, memories: list[Memory] | None = None) -> torch.Tensor:
        """Features and the next token's embedding [B, n, hidden] -> features of that token [B, n, hidden]."""
        x = self.fuse(state, token)
        for i, layer in enumerate(self.layers):
            x = layer(x, places, mask, memories[i] if memories is not None else None)
        return x

    def guesses(self, batch: Batch, target: Target) -> Guesses:
        return self._rolled(batch, target, self.spec.steps)[0]

    def scores(self, batch: Batch, target: Target) -> Scores:
        """With the distance between the features, over ``rolled`` steps."""
        guessed, far = self._rolled(batch, target, self.spec.options.get("rolled", 1))
        found = towards(guessed)
        return Scores(found.loss + FEATURES * far, found.hits)

    def _rolled(self, batch: Batch, target: Target, steps: int) -> tuple[Guesses, torch.Tensor]:
        """Each step reads the step before: its own guesses, not the target's features, as in a draft."""
        length = batch.tokens.shape[1]
        token = target.embed(batch.tokens).to(batch.features.dtype)
        places = torch.arange(length, device=batch.tokens.device)
        noise = NOISE * (2 * torch.rand_like(batch.features) - 1) if self.training else 0.0
        state = batch.features + noise
        students, teachers, far = [], [], torch.zeros((), device=token.device)
        for i in range(steps):
            guessed = self(state[:, :-1], token[:, 1 + i:], places[1 + i:])
            wanted = batch.features[:, 1 + i:]
            far = far + F.smooth_l1_loss(guessed.float(), wanted.float())
            students.append(target.logits(guessed))
            teachers.append(batch.teacher[:, 1 + i:])
            state = guessed
        return (students, teachers), far / steps

    def memories(self, capacity: int) -> list[Memory]:
        return [layer.memory(capacity) for layer in self.layers]  # type: ignore[operator]
