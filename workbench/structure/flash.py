"""Feed-forward neurons that wait on disk: predicted, read, kept for a few tokens.

LLM in a flash (Alizadeh et al. 2023, arXiv:2312.11514), sections 3.1 to 3.3. A low-rank predictor names the
neurons that a token will need; those of the last few tokens stay in memory (windowing); a neuron's rows of
the three matrices lie together on disk, so that one read brings all of it (bundling); memory is one
preallocated table whose holes are filled by its last rows (no reallocation). What the predictor leaves out
is not computed, so this is not lossless; gated models are far less sparse than the paper's ReLU ones.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.errors import ModelError, SettingsError, StoreError

#: Gate, up and down rows of one neuron.
PARTS = 3


class Predictor(nn.Module):
    """Scores of all neurons from the feed-forward input: hidden -> rank -> neurons."""

    def __init__(self, hidden: int, rank: int, neurons: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, rank, bias=False)
        self.up = nn.Linear(rank, neurons)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., neurons]; larger is likelier to be needed."""
        scores: torch.Tensor = self.up(self.down(x))
        return scores


def important(inside: torch.Tensor, columns: torch.Tensor, share: float) -> torch.Tensor:
    """bool like ``inside`` [tokens, neurons]: each token's largest |a| times the output column's norm."""
    scores = inside.abs() * columns
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen.scatter_(1, scores.topk(_count(scores.shape[1], share), dim=1).indices, True)
    return chosen


def _count(neurons: int, share: float) -> int:
    return max(1, min(neurons, round(share * neurons)))


def fit(seen: torch.Tensor, needed: torch.Tensor, rank: int = 64, steps: int = 300, rate: float = 3e-3,
        seed: int = 0) -> Predictor:
    """``seen`` [tokens, hidden], ``needed`` bool [tokens, neurons] -> a trained predictor (BCE, Adam).

    Raises SettingsError where there is nothing to learn from."""
    if not len(seen) or rank < 1:
        raise SettingsError("a predictor needs calibration tokens and a rank of at least 1")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Predictor(seen.shape[1], rank, needed.shape[1])
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(made.parameters(), lr=rate)
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(seen), (min(256, len(seen)),), generator=generator)
            loss = F.binary_cross_entropy_with_logits(made(seen[rows]), needed[rows].float())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return made.requires_grad_(False).eval()


def recall(predictor: Predictor, seen: torch.Tensor, needed: torch.Tensor, share: float) -> float:
    """Of the neurons that tokens need, the share that the predictor's ``share`` of all neurons has."""
    scores = predictor(seen)
    chosen = torch.zeros_like(needed).scatter_(1, scores.topk(_count(scores.shape[1], share)).indices, True)
    return float((chosen & needed).sum() / needed.sum().clamp(min=1))


class Bundles:
    """A file of neurons [neurons, 3, hidden] bfloat16: gate row, up row, down column of each."""

    def __init__(self, path: Path, neurons: int, hidden: int) -> None:
        self.path, self.neurons, self.hidden = path, neurons, hidden
        self.size = PARTS * hidden * 2
        if path.stat().st_size != self.size * neurons:
            raise StoreError(f"{path} has not the size of {neurons} neurons; write it again")
        self._file = path.open("rb", buffering=0)
        self.reads = self.read_bytes = 0

    @classmethod
    def write(cls, path: Path, mlp: Any) -> Bundles:
        """From a gated feed-forward part. Raises ModelError (biases), StoreError."""
        if any(getattr(mlp, n).bias is not None for n in ("gate_proj", "up_proj", "down_proj")):
            raise ModelError("this model's feed-forward parts have biases, which neuron files do not hold")
        gate, up, down = (getattr(mlp, n).weight.detach().bfloat16() for n in
                          ("gate_proj", "up_proj", "down_proj"))
        rows = torch.stack((gate, up, down.T), 1).contiguous()
        aside = path.with_suffix(".part")
        try:
            aside.write_bytes(rows.view(torch.uint8).numpy().tobytes())
            aside.replace(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error.strerror or error}); free some "
                             "space") from None
        return cls(path, gate.shape[0], gate.shape[1])

    def read(self, neuron: int, into: torch.Tensor) -> None:
        """One neuron into a row [3, hidden] bfloat16 of a table."""
        view = into.view(-1).view(torch.uint8).numpy().data
        if os.preadv(self._file.fileno(), [view], neuron * self.size) != self.size:
            raise StoreError(f"{self.path} ended early; write it again")
        self.reads += 1
        self.read_bytes += self.size

    def close(self) -> None:
        self._file.close()


class Table:
    """Neurons in memory: rows 0 .. live - 1 of one preallocated table, in no order."""

    def __init__(self, bundles: Bundles, rows: int) -> None:
        self.bundles = bundles
        self.rows = torch.zeros(rows, PARTS, bundles.hidden, dtype=torch.bfloat16)
        self.slot: dict[int, int] = {}
        self._neuron: list[int] = []

    @property
    def live(self) -> int:
        return len(self._neuron)

    def hold(self, wanted: Iterable[int]) -> int:
        """Drop what is not wanted, read what is missing; neurons read."""
        keep = set(wanted)
        for neuron in [n for n in self._neuron if n not in keep]:
            self._drop(neuron)
        missing = sorted(keep - self.slot.keys())
        if self.live + len(missing) > len(self.rows):
            raise SettingsError(f"the table has {len(self.rows)} rows and {len(keep)} neurons are needed; "
                                "make it larger, or the window shorter")
        for neuron in missing:
            self.bundles.read(neuron, self.rows[self.live])
            self.slot[neuron] = self.live
            self._neuron.append(neuron)
        return len(missing)

    def _drop(self, neuron: int) -> None:
        """The last row takes the place."""
        at, last = self.slot.pop(neuron), self._neuron.pop()
        if last != neuron:
            self.rows[at] = self.rows[len(self._neuron)]
            self.slot[last], self._neuron[at] = at, last


@dataclass
class Counts:
    """``tokens`` computed, ``read`` neurons, ``needed`` neurons (what no window would have read)."""

    tokens: int = 0
    read: int = 0
    needed: int = 0


class FlashMLP(nn.Module):
    """In a gated feed-forward part's place; only its predictor and the table stay in memory."""

    def __init__(self, predictor: Predictor, bundles: Bundles, share: float, window: int = 4,
                 activation: Callable[[torch.Tensor], torch.Tensor] = F.silu) -> None:
        super().__init__()
        if window < 1 or not 0 < share <= 1:
            raise SettingsError(f"window={window} and share={share}: the window is at least one token, the "
                                "share above 0 and at most 1")
        self.predictor, self.activation = predictor, activation
        self.count = _count(bundles.neurons, share)
        self.table = Table(bundles, min(bundles.neurons, window * self.count))
        self.recent: deque[list[int]] = deque(maxlen=window)
        self.counts = Counts()

    @property
    def resident_bytes(self) -> int:
        """Of the table and the predictor."""
        return self.table.rows.numel() * 2 + sum(p.numel() * p.element_size() for p in self.parameters())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return torch.stack([self._token(row) for row in flat]).view(x.shape)

    def _token(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.predictor(x.float()).topk(self.count).indices.tolist()
        self.recent.append(chosen)
        self.counts.tokens += 1
        self.counts.needed += len(chosen)
        self.counts.read += self.table.hold(n for neurons in self.recent for n in neurons)
        held = self.table.rows[:self.table.live].to(x.dtype)
        inside = self.activation(held[:, 0] @ x) * (held[:, 1] @ x)
        return inside @ held[:, 2]
