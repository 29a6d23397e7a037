"""Speculative decoding with a draft model: a small model proposes, the target verifies.

Leviathan et al. 2023, arXiv:2211.17192, sections 2 and 3; the same idea in Chen et al. 2023,
arXiv:2302.01318. Lossless: greedy output is token-identical, sampled output has the target's
distribution under either rule.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Drafters, Proposal, Speculative

if TYPE_CHECKING:
    import torch

    from workbench.machine import Machine
    from workbench.settings import Settings
    from workbench.shape import ModelShape

STREAM = 7  # the draft's own noise under the ratio rule, independent of the target's


@dataclass(frozen=True)
class DraftModel(Speculative):
    """A small model proposes a chain of tokens; the target verifies them in one forward."""

    title = "draft model"
    paper = Paper("2211.17192", "Leviathan et al. 2023", "2 and 3")
    claim = Claim("2-3x", setup="T5-XXL 11B with T5-small, TPU-v4, batch 1")
    needs = ("draft",)
    owns = ("draft", "gamma")
    draft: str = control("auto", help="auto: the bundled draft; or a hub id or folder")
    gamma: int = control(4, 1, 32, soft=(1, 12), unit="tokens", help="tokens drafted per verification")
    rule: str = control("coupled", choices=("coupled", "ratio"),
                        help="sampling only; coupled: the text of plain sampling with this seed; "
                             "ratio: accept by p/q, keeps the most drafts")

    def rows(self) -> int:
        return 1 + self.gamma

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        from workbench.runtime.drafts import why_not

        return super().applies(shape, machine) or why_not(self.draft, shape)

    def refuses(self, settings: Settings) -> str | None:
        from workbench.errors import SettingsError
        from workbench.runtime.drafts import locate

        try:
            if self.draft == "auto":
                locate(self.draft, settings.model.source)
        except SettingsError as error:
            return str(error)
        return None

    def drafts_change_text(self) -> bool:
        return self.rule == "ratio"

    def start(self, runtime: Any) -> Drafter:
        return ModelDrafter(self, runtime)

    def start_batch(self, runtime: Any, sequences: int) -> Drafters:
        """One forward of the draft over the whole batch for every place."""
        from workbench.techniques.decoding._batch import ModelDrafters

        if sequences == 1:
            return Drafters([self.start(runtime)])
        return ModelDrafters(self, runtime, sequences)


class ModelDrafter(Drafter):
    """The draft's forward and its own cache, rolled back to what the target kept."""

    def __init__(self, choice: DraftModel, runtime: Any) -> None:
        draft = runtime.model.draft_for(choice.draft, runtime.settings, runtime.emit)
        self._forward = draft.forward
        self._weights_bytes = draft.weights_bytes
        self._sampler, self._guard = runtime.sampler, runtime.guard
        self._ratio = choice.rule == "ratio" and not runtime.sampler.greedy
        self._gamma = choice.gamma
        self._positions = min(runtime.capacity, self._forward.max_positions)
        self._cache = draft.cache(self._positions)
        self._masks = self._forward.masks([0], self._positions)
        self._cached: list[int] = []
        self._settled = 0  # tokens known to be equal to the target's

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """A chain of ``min(gamma, budget)`` tokens, fewer at the end of the draft's positions."""
        budget = min(budget, self._gamma, self.most, self._positions - len(tokens))
        if budget < 1:
            return Proposal()
        started = time.perf_counter()
        self._roll_back(tokens)
        logits = self._feed(tokens[self._cache.length:])
        drafted: list[torch.Tensor] = []
        probs: list[torch.Tensor | None] = []
        for depth in range(budget):
            token, q = self._pick(logits, len(tokens) + depth)
            drafted.append(token)
            probs.append(q)
            if depth + 1 < budget:
                logits = self._step(token)
        chain = self._to_list(drafted)
        self._cached = tokens + chain[:-1]
        return Proposal.chain(chain, probs if self._ratio else None,
                              seconds=time.perf_counter() - started)

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Nothing to learn; the roll-back happens against ``tokens`` at the next proposal."""

    def memory_bytes(self) -> int:
        return self._weights_bytes + self._cache.nbytes

    def _roll_back(self, tokens: list[int]) -> None:
        """Keep the longest common prefix. Settled tokens never change, so only news is compared."""
        same = min(self._settled, len(self._cached))
        limit = min(len(self._cached), len(tokens) - 1)
        while same < limit and self._cached[same] == tokens[same]:
            same += 1
        self._cache.rewind(min(same, limit))
        self._settled = min(same, limit)

    def _feed(self, tokens: list[int], chunk: int = 512) -> torch.Tensor:
        """Append tokens in plain order; logits [1, V] after the last."""
        import torch

        from workbench.runtime.forward import reading

        for start in range(0, len(tokens), chunk):
            part = tokens[start:start + chunk]
            base, n = self._cache.length, len(part)
            self._guard.check()
            device = self._forward.device
            ids = torch.tensor([part], device=device)
            places = torch.arange(base, base + n, device=device)[None]
            with reading(self._forward) if base == 0 else nullcontext():
                logits = self._forward(ids, places, self._masks.rows(base, n), self._cache, 1)
        return logits[0]

    def _step(self, token: torch.Tensor) -> torch.Tensor:
        """One token that is still on the device, so a chain needs no round trip to the host."""
        base = self._cache.length
        places = token.new_full((1, 1), base)
        return self._forward(token.view(1, 1), places, self._masks.rows(base, 1), self._cache, 1)[0]

    def _pick(self, logits: torch.Tensor, position: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self._ratio:
            return self._sampler.choose(logits, [position]), None
        probs = self._sampler.probabilities(logits)
        return self._sampler.draw(probs, [position], stream=STREAM), probs[0]

    @staticmethod
    def _to_list(drafted: list[torch.Tensor]) -> list[int]:
        import torch

        return torch.cat(drafted).tolist()
