"""EasySpec: a draft whose layers run side by side, corrected after every verification.

Wu et al. 2025, arXiv:2502.02493, sections 3 and 4. Lossless: the target verifies every chain. The paper runs
the layers of one group on several GPUs; on one device they are one matrix product and one attention call,
which saves launches, not reading the weights: where a draft is bound by memory, nothing is gained.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Proposal, Speculative

if TYPE_CHECKING:
    import torch

    from workbench.machine import Machine
    from workbench.settings import Settings
    from workbench.shape import ModelShape


@dataclass(frozen=True)
class EasySpec(Speculative):
    """A draft's consecutive attention layers read the same input and run at once; its cache is corrected."""

    title = "layer-parallel drafting (EasySpec)"
    paper = Paper("2502.02493", "Wu et al. 2025", "3 and 4")
    claim = Claim("up to 4.17x; drafting up to 1.62x faster at no more than 7 % less acceptance",
                  setup="Llama-3 70B with an 8B draft, 8 x A100, tensor parallel, batch 1",
                  memory="a second copy of the draft's attention matrices on one device")
    needs = ("draft",)
    draft: str = control("self", help="self: a copy of the target; auto: the bundled draft (two layers); "
                                      "or a hub id or folder of a Llama with the same tokenizer")
    gamma: int = control(4, 1, 32, soft=(1, 12), unit="tokens", help="tokens drafted per verification")
    group: int = control(4, 1, 16, soft=(1, 6), unit="layers",
                         help="layers that run side by side; 1 is exact")
    edges: int = control(1, 0, 8, soft=(0, 2), unit="layers", help="layers at each end that stay alone")
    calibrate: bool = control(True, help="overwrite the approximate keys and values of kept tokens by exact "
                                         "ones")

    def rows(self) -> int:
        return 1 + self.gamma

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        from workbench.runtime.drafts import why_not

        return super().applies(shape, machine) or why_not(self.draft, shape)

    def refuses(self, settings: Settings) -> str | None:
        from workbench.techniques.decoding.draft_model import DraftModel

        return DraftModel(draft=self.draft).refuses(settings)

    def start(self, runtime: Any) -> Drafter:
        return FuzzyDrafter(self, runtime)


class FuzzyDrafter(Drafter):
    """Chains whose first token comes from an exact forward over what was kept, the others from fuzzy ones.

    ``_cached``: the tokens of the draft's cache; the first ``_exact`` of them were computed exactly."""

    def __init__(self, choice: EasySpec, runtime: Any) -> None:
        from workbench.techniques.decoding._fuzzy import FuzzyForward, grouped, lean_of

        draft = runtime.model.draft_for(choice.draft, runtime.settings, runtime.emit)
        lean = lean_of(draft.forward, choice.draft)
        self._fuzzy = FuzzyForward(lean, grouped(len(lean.layers), choice.group, choice.edges))
        self._forward, self._weights_bytes = draft.forward, draft.weights_bytes
        if lean is not draft.forward:
            self._weights_bytes += lean.nbytes
        self._sampler, self._guard = runtime.sampler, runtime.guard
        self._choice = choice
        self._positions = min(runtime.capacity, draft.forward.max_positions)
        self.cache = self._fuzzy.cache(self._positions)
        self._masks = self._forward.masks([0], self._positions)
        self._cached: list[int] = []
        self._exact = 0

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """A chain of ``min(gamma, budget)`` tokens, fewer at the end of the draft's positions."""
        import torch

        count = min(budget, self._choice.gamma, self.most, self._positions - len(tokens))
        if count < 1:
            return Proposal()
        started = time.perf_counter()
        logits = self._catch_up(tokens)
        chain: list[torch.Tensor] = []
        for depth in range(count):
            self._guard.check()
            chain.append(self._sampler.choose(logits[None], [len(tokens) + depth]))
            if depth + 1 < count:
                logits = self._fuzzy(chain[-1], self.cache)
        drafted: list[int] = torch.cat(chain).tolist()
        self._cached = [*tokens, *drafted[:-1]]
        return Proposal.chain(drafted, seconds=time.perf_counter() - started)

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Nothing to learn; the cache is corrected at the next proposal."""

    def says(self) -> dict[str, str]:
        return {"group": self._fuzzy.describe()}

    def memory_bytes(self) -> int:
        return self._weights_bytes + self._fuzzy.nbytes + self.cache.nbytes

    def _catch_up(self, tokens: list[int]) -> torch.Tensor:
        """Make the cache hold ``tokens`` -> logits [V] after the last. What was kept of the last chain is
        computed again exactly (bonus calibration), or only the last token where that is switched off."""
        same, limit = self._exact, min(len(self._cached), len(tokens) - 1)
        same = min(same, limit)
        while not self._calibrated(same) and same < limit and self._cached[same] == tokens[same]:
            same += 1
        self.cache.rewind(same)
        logits = self._read(tokens, same)
        self._exact = len(tokens)
        return logits

    def _calibrated(self, place: int) -> bool:
        return self._choice.calibrate and place >= self._exact

    def _read(self, tokens: list[int], start: int, chunk: int = 512) -> torch.Tensor:
        """An exact forward over ``tokens[start:]``; logits [V] after the last."""
        import torch

        for base in range(start, len(tokens), chunk):
            self._guard.check()
            part = tokens[base:base + chunk]
            ids, places = torch.tensor([part, list(range(base, base + len(part)))])[:, None].to(
                self._forward.device)
            logits = self._forward(ids, places, self._masks.rows(base, len(part)), self.cache, 1)
        return logits[0, -1]
