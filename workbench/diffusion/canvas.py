"""The loop of masked-diffusion decoding: forward, score, commit, until nothing is masked.

Blocks are filled from left to right (semi-autoregressive decoding, LLaDA section 2.4); one block as long as
the canvas is fully parallel. Commits are final. The attention sees the whole canvas all the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from workbench.errors import Cancelled, SettingsError
from workbench.techniques.decoding._diffusion import View

if TYPE_CHECKING:
    from workbench.diffusion.model import DiffusionModel
    from workbench.techniques.decoding._diffusion import Decoder, Diffusion


@dataclass(frozen=True)
class Commit:
    """One place fixed. ``place`` counts from the canvas' start; ``step`` is the forward, from 1."""

    step: int
    place: int
    token: int
    confidence: float


@dataclass
class Filled:
    """A finished canvas. ``tokens``: up to the end of the text; ``forwards``: network evaluations;
    ``rows``: canvas rows computed (FreeDave computes several per forward)."""

    tokens: list[int] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    forwards: int = 0
    rows: int = 0

    @property
    def per_forward(self) -> float:
        """Tokens of the text, its end included, per forward: padding after it does not count."""
        last = len(self.tokens) + 1
        return min(last, len(self.commits)) / max(1, self.forwards)


def fill(model: DiffusionModel, prompt: list[int], method: Diffusion, *, canvas: int | None = None,
         block: int = 0, on_step: Callable[[int, list[Commit]], None] | None = None,
         cancelled: Callable[[], bool] = lambda: False,
         forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None) -> Filled:
    """Fill a canvas of ``canvas`` places (the model's own by default) after ``prompt``.

    ``block`` 0: one block. ``on_step(step, commits)`` after every decision. ``forward`` replaces
    ``model.logits`` (to watch it). Raises SettingsError for a
    block that is longer than the canvas, Cancelled (nothing is kept)."""
    canvas = canvas or model.canvas
    if not 0 <= block <= canvas:
        raise SettingsError(f"a block of {block} places does not fit a canvas of {canvas}; "
                            f"choose 1 to {canvas}, or 0 for one block")
    with torch.inference_mode():
        return _Run(model, prompt, method.decoder(model), canvas, block or canvas,
                    forward or model.logits).go(
            on_step, cancelled)


class _Run:
    """State of one canvas."""

    def __init__(self, model: DiffusionModel, prompt: list[int], decoder: Decoder, canvas: int,
                 block: int, forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.model, self.decoder, self.block, self.forward = model, decoder, block, forward
        self.rows = model.rows(prompt, canvas)
        self.tokens = torch.full((canvas,), model.mask, dtype=torch.long, device=self.rows.device)
        self.masked = torch.ones(canvas, dtype=torch.bool, device=self.rows.device)
        self.found = Filled()

    def go(self, on_step: Callable[[int, list[Commit]], None] | None,
           cancelled: Callable[[], bool]) -> Filled:
        canvas = len(self.tokens)
        for start in range(0, canvas, self.block):
            within = torch.zeros_like(self.masked)
            within[start:start + self.block] = True
            first = True
            while bool((self.masked & within).any()):
                if cancelled():
                    raise Cancelled("cancelled")
                commits = self._step(within, first)
                first = False
                if on_step is not None:
                    on_step(self.found.forwards, commits)
        self.found.tokens = self._text()
        return self.found

    def _step(self, within: torch.Tensor, first: bool) -> list[Commit]:
        view = View(self.tokens, self.masked, self.masked & within, self.found.forwards, first)
        tokens, confidence, chosen = self.decoder.step(view, self._forward)
        places = chosen.nonzero()[:, 0].tolist()
        commits = [Commit(self.found.forwards, p, int(tokens[p]), float(confidence[p]))
                   for p in places]
        self.tokens[chosen] = tokens[chosen]
        self.masked[chosen] = False
        self._give_up(tokens, confidence, view)
        self.found.commits += commits
        return commits

    def _give_up(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> None:
        """End-of-text pruning: everything behind a decided end is the end."""
        view.active = view.active & self.masked
        end = self.decoder.ends(tokens, confidence, view)
        if end is not None:
            rest = self.masked.clone()
            rest[:end] = False
            self.tokens[rest] = self.model.eos
            self.masked[rest] = False

    def _forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.found.forwards += 1
        self.found.rows += len(rows)
        return self.forward(self.rows, rows)

    def _text(self) -> list[int]:
        tokens = self.tokens.tolist()
        return tokens[:tokens.index(self.model.eos)] if self.model.eos in tokens else tokens
