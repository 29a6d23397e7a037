"""Jacobi decoding: the target's own last predictions, one place further, are the next draft.

Santilli et al. 2023, arXiv:2305.10427, section 3; fixed-point iteration on a window of tokens. Lossless:
a token counts once the target confirms it; sampling uses the noise of its place (coupled rule).
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
class Jacobi(Speculative):
    """Iterates a window of guessed tokens until the target agrees with them; needs no draft model."""

    title = "Jacobi decoding"
    paper = Paper("2305.10427", "Santilli et al. 2023", "3")
    claim = Claim("up to 2x on translation, little on free text",
                  setup="mBART50 and MarianMT, parallel hardware")
    window: int = control(6, 2, 32, unit="tokens", help="guessed tokens per forward")

    def rows(self) -> int:
        return 1 + self.window

    def start(self, runtime: Any) -> Drafter:
        return Window(self.window, runtime.sampler)


class Window(Drafter):
    """The guesses for the places after the last token."""

    def __init__(self, window: int, sampler: Any) -> None:
        self._window, self._sampler = window, sampler
        self._guess: list[int] = []

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """The window; places never guessed yet repeat the last guess."""
        started = time.perf_counter()
        width = min(self._window, budget, self.most)
        guess = self._guess[:width]
        guess += [guess[-1] if guess else tokens[-1]] * (width - len(guess))
        return Proposal.chain(guess, seconds=time.perf_counter() - started)

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Rows after the last confirmed one predict the places that are still open."""
        rest = logits[accepted + 1:]
        if not rest.shape[0]:
            self._guess = []
            return
        places = list(range(len(tokens) + 1, len(tokens) + 1 + rest.shape[0]))
        self._guess = self._sampler.choose(rest, places).tolist()
