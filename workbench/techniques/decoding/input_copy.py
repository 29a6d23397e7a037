"""Aggressive Decoding: draft by copying the input, the whole rest of it, from where the output stands.

Sun et al. 2021 (IAD), Ge et al. 2022, arXiv:2205.10350, section 3.1. Made for tasks whose output is
mostly the input: correction, editing, simplification. Lossless: the target verifies every copy.
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
class InputCopy(Speculative):
    """Copies the prompt from the place that the output has reached, until the target disagrees."""

    title = "Aggressive Decoding (input copy)"
    paper = Paper("2205.10350", "Ge et al. 2022", "3.1")
    claim = Claim("7-9x on grammar correction and simplification, same output",
                  setup="6-layer Transformer, GPU, batch 1")
    span: int = control(16, 2, 64, unit="tokens", help="tokens copied per verification at most")
    ngram: int = control(3, 1, 5, unit="tokens",
                         help="longest end of the output that is looked for in the prompt")

    def rows(self) -> int:
        return 1 + self.span

    def start(self, runtime: Any) -> Drafter:
        return Pointer(self.ngram, self.span)


class Pointer(Drafter):
    """A place in the input. Lost at a disagreement; found again by an n-gram that is unique there."""

    def __init__(self, ngram: int, span: int) -> None:
        self._ngram, self._span = ngram, span
        self._input: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self._at = -1  # next place to copy from, -1: lost
        self._copied = 0

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """The input from the pointer on; empty while it is lost."""
        started = time.perf_counter()
        if not self._input:
            self._take(tokens[:-1])
        if self._at < 0:
            self._find(tokens)
        copy = self._input[self._at:self._at + min(self._span, budget, self.most)] if self._at >= 0 else []
        self._copied = len(copy)
        return Proposal.chain(copy, seconds=time.perf_counter() - started)

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Go on behind a copy that was right as a whole and so was the target's own next token."""
        if self._at < 0 or not self._copied:
            return
        place = self._at + accepted
        whole = accepted == self._copied and place < len(self._input)
        self._at = place + 1 if whole and self._input[place] == tokens[-1] else -1
        if self._at >= len(self._input):
            self._at = -1

    def _take(self, given: list[int]) -> None:
        """Where each n-gram of the input ends; -1 when it occurs twice."""
        self._input = given
        for n in range(1, self._ngram + 1):
            for end in range(n, len(given)):
                key = tuple(given[end - n:end])
                self._ends[key] = -1 if key in self._ends else end

    def _find(self, tokens: list[int]) -> None:
        """The shortest end of the output that occurs once in the input wins."""
        produced = len(tokens) - len(self._input)
        for n in range(1, min(self._ngram, produced) + 1):
            place = self._ends.get(tuple(tokens[-n:]), -1)
            if place >= 0:
                self._at = place
                return
