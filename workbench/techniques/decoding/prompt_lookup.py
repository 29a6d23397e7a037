"""Prompt lookup: draft by copying what followed the same n-gram earlier in prompt or output.

Yang et al. 2023, "Inference with Reference", arXiv:2304.04487, section 3; the input-copying ancestor is
Aggressive Decoding, Ge et al. 2022, arXiv:2205.10350. Lossless: the target verifies every copy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Proposal, Speculative

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PromptLookup(Speculative):
    """Copies what followed the last few tokens earlier in the text; the target verifies the copy."""

    title = "prompt lookup"
    paper = Paper("2304.04487", "Yang et al. 2023", "3")
    claim = Claim("over 2x on tasks that repeat their input",
                  setup="LLaMA 7B-30B, retrieval and multi-turn, GPU, batch 1")
    ngram: int = control(3, 1, 8, unit="tokens", help="longest match that is looked for")
    span: int = control(8, 1, 64, soft=(1, 24), unit="tokens", help="tokens copied per verification")

    def rows(self) -> int:
        return 1 + self.span

    def start(self, runtime: Any) -> Drafter:
        return Lookup(self.ngram, self.span)


class Lookup(Drafter):
    """Index of n-grams: the tokens -> where the text went on, the latest place winning."""

    def __init__(self, ngram: int, span: int) -> None:
        self._ngram, self._span = ngram, span
        self._next: dict[tuple[int, ...], int] = {}
        self._indexed = 0  # places below this are in the index

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """The continuation of the longest n-gram seen before; empty when none was."""
        started = time.perf_counter()
        self._extend(tokens)
        for n in range(min(self._ngram, len(tokens) - 1), 0, -1):
            place = self._next.get(tuple(tokens[-n:]))
            if place is not None:
                return Proposal.chain(self._copy(tokens, place, min(budget, self._span, self.most)),
                                      seconds=time.perf_counter() - started)
        return Proposal(seconds=time.perf_counter() - started)

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """The next proposal indexes what is new."""

    def _extend(self, tokens: list[int]) -> None:
        """Index every n-gram that has a token after it. Accepted text never changes."""
        for place in range(max(1, self._indexed), len(tokens)):
            for n in range(1, min(self._ngram, place) + 1):
                self._next[tuple(tokens[place - n:place])] = place
        self._indexed = len(tokens)

    @staticmethod
    def _copy(tokens: list[int], place: int, count: int) -> list[int]:
        """Text from ``place`` on; past its end it goes on with its own copy (repeating texts)."""
        period = len(tokens) - place
        return [tokens[place + i % period] for i in range(count)]
