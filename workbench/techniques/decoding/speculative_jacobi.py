"""Speculative Jacobi decoding: Jacobi iteration made exact and effective for sampling.

Teng et al. 2024, arXiv:2410.01699, section 4. A guess is a draw from the previous iteration's
distribution, which is kept, so the ordinary speculative rule min(1, p/q) verifies it; everything after
a rejection is drawn again. Greedy decoding makes it plain Jacobi. Lossless in distribution.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Proposal, Speculative

if TYPE_CHECKING:
    import torch

_STREAM = 9  # the draws of the guesses, independent of the target's


@dataclass(frozen=True)
class SpeculativeJacobi(Speculative):
    """Jacobi guesses are drawn from the last iteration's distributions and accepted by p/q."""

    title = "speculative Jacobi decoding"
    paper = Paper("2410.01699", "Teng et al. 2024", "4")
    claim = Claim("about 2x fewer steps", setup="text-to-image models, sampling; text gains little")
    window: int = control(8, 2, 32, unit="tokens", help="guessed tokens per forward")

    def rows(self) -> int:
        return 1 + self.window

    def drafts_change_text(self) -> bool:
        return True

    def start(self, runtime: Any) -> Drafter:
        return Guesses(self.window, runtime.sampler)


class Guesses(Drafter):
    """Per open place: the token drawn and the distribution it was drawn from."""

    def __init__(self, window: int, sampler: Any) -> None:
        self._window, self._sampler = window, sampler
        self._tokens: list[int] = []
        self._probs: list[torch.Tensor] = []
        self._round = 0

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """What was drawn after the last verification. Places beyond it are not guessed: an invented
        token would have no distribution to be accepted by, and is seldom right."""
        started = time.perf_counter()
        if not self._tokens:
            return self._first(tokens, budget, started)
        width = min(self._window, budget, self.most)
        guess, probs = self._tokens[:width], list[Any](self._probs[:width])
        if len(guess) < width:  # one new place: the last guess again, as a point
            guess.append(guess[-1])
            probs.append(None)
        chosen = None if self._sampler.greedy else probs
        return Proposal.chain(guess, chosen, seconds=time.perf_counter() - started)

    def _first(self, tokens: list[int], budget: int, started: float) -> Proposal:
        width = min(self._window, budget, self.most)
        return Proposal.chain([tokens[-1]] * width, seconds=time.perf_counter() - started)

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Draw every open place again from the newest distributions, and keep those."""
        rest = logits[accepted + 1:]
        self._round += 1
        self._tokens, self._probs = [], []
        if not rest.shape[0]:
            return
        places = list(range(len(tokens) + 1, len(tokens) + 1 + rest.shape[0]))
        probs = self._sampler.probabilities(rest)
        # Another stream each round: a draw must not be the one that a rejection just answered.
        drawn = self._sampler.draw(probs, places, stream=(self._round << 8) + _STREAM)
        self._tokens, self._probs = drawn.tolist(), list(probs)
