"""Decoding whose tokens may end before the last layer: the layers above are caught up later, or never.

A token that leaves at layer e has no keys and values above. Here its residual stream is kept, and when a
later token needs those layers its row goes along: the rows above layer e are then the same sums that a full
forward would have made, read together with the later token's (deferred keys and values; the alternatives
of copying the stream upwards or leaving holes change what later tokens see). So the cache is exact whenever
a token runs to the end, and each deferred row then also says what full depth would have answered.

Pending rows are the newest tokens, and a later one never waits higher than an earlier one: whoever passes a
layer takes along all that wait there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from workbench.runtime import guard as guarding
from workbench.runtime.loop import Loop

if TYPE_CHECKING:
    from workbench.runtime.loop import Sequence

#: Rows that wait at most; the next token then runs to the end.
_MOST_PENDING = 24


class Exits(Protocol):
    """Who decides. ``layers``: where to ask, ascending: after that many layers."""

    def begin(self, tokens: list[int]) -> Items[int]:
        """A token is about to be computed -> the layers at which to ask for it."""

    def sure(self, layer: int, state: torch.Tensor) -> bool:
        """Whether the answer looks settled, from the stream [hidden] that enters ``layer``."""

    def confirms(self, logits: torch.Tensor) -> bool:
        """Whether to leave with these logits [V], the layer's over the whole vocabulary."""

    def ended(self, layer: int) -> None:
        """The token left at this layer (the number of layers: it ran to the end)."""

    def memory_bytes(self) -> int:
        """Bytes held."""


@dataclass(eq=False)
class _Waiting:
    """A token's row that has passed ``layer`` layers. ``said``: the token that it gave."""

    position: int
    layer: int
    state: torch.Tensor  # [hidden]
    said: int


class EarlyExitLoop(Loop):
    """One sequence; each step stops at the first layer where ``exits`` says so."""

    def __init__(self, *args: Any, exits: Exits, **options: Any) -> None:
        super().__init__(*args, **options)
        self.exits = exits
        self._waiting: list[_Waiting] = []
        self.depths: list[int] = []
        self.agreed = self.checked = 0

    def advance(self) -> None:
        sequence = self.active[0]
        started = self.clock()
        slow = self._last_s > guarding.SLOW_S
        with self.forward.guarded(self.guard) if slow else contextlib.nullcontext():
            logits, layer = self._token(sequence)
            token = self.sampler.choose(logits[None], [len(sequence.ids)], [sequence.index])
        self.forwards += 1
        said = int(token)
        if layer < self._end:
            self._waiting[-1].said = said
        self._last_s = self._phase("decode", started, 1, 1)
        self.depths.append(layer)
        self.exits.ended(layer)
        self._append(sequence, [said])
        self.emitted += 1
        self._retire()

    @property
    def _end(self) -> int:
        return len(self.forward.layers)

    def memory_bytes(self) -> int:
        """What the predictors and their draft hold."""
        return self.exits.memory_bytes()

    def says(self) -> dict[str, str]:
        """Where tokens left, and how often full depth would have said the same."""
        if not self.depths:
            return {}
        end, n = self._end, len(self.depths)
        early = sum(d < end for d in self.depths)
        said = f"{sum(self.depths) / n:.2f} of {end} layers on average; {early} of {n} tokens left early"
        if self.checked:
            said += f", {self.agreed} of the {self.checked} that were checked later agree with full depth"
        return {"": said}

    def _token(self, sequence: Sequence) -> tuple[torch.Tensor, int]:
        """The next token's logits [V], and the layers that were run for it."""
        position = len(sequence.ids) - 1
        ids = torch.tensor([sequence.ids[-1]], device=self.forward.device)
        me = _Waiting(position, 0, self.forward.embed(ids)[0], -1)
        asked = [] if len(self._waiting) >= _MOST_PENDING else [
            n for n in self.exits.begin(sequence.ids) if 0 < n < self._end]
        # Stops also where somebody waits, so that rows join at the layer they left.
        stops = sorted({*asked, self._end, *(w.layer for w in self._waiting)})
        for last in stops:
            found = self._rise(me, last)
            if last in asked and self.exits.sure(last, me.state):
                logits = self._run([me], self._end, self._end)[0]
                if self.exits.confirms(logits):
                    self._waiting.append(me)
                    self.cache.rewind(position + 1)
                    return logits, last
        self.cache.rewind(position + 1)
        return found[-1], self._end

    def _rise(self, me: _Waiting, last: int) -> torch.Tensor:
        """Take the token, and all that wait at its layer or below, up to layer ``last``."""
        going = [w for w in self._waiting if w.layer <= me.layer] + [me]
        out = self._run(going, me.layer, last)
        if last == self._end:
            self._check(going[:-1], out)
            self._waiting = [w for w in self._waiting if w not in going]
            return out
        for waiting, state in zip(going, out, strict=True):
            waiting.layer, waiting.state = last, state
        return out

    def _run(self, going: Items[_Waiting], first: int, last: int) -> torch.Tensor:
        """Layers ``first`` to ``last`` over neighbouring rows; from the end to the end: norm and head."""
        n, base = len(going), going[0].position
        rows = self.masks.ragged([0], [base], [tuple(range(-1, n - 2))])
        places = torch.arange(base, base + n, device=self.forward.device)
        states = going[0].state[None] if n == 1 else torch.stack([w.state for w in going])
        return self.forward.part(states, first, last, places, rows, self.cache)

    def _check(self, done: list[_Waiting], logits: torch.Tensor) -> None:
        """What full depth says at the rows that had left early."""
        if not done:
            return
        full = self.sampler.choose(logits[:len(done)], [w.position + 1 for w in done]).tolist()
        self.checked += len(done)
        self.agreed += sum(w.said == token for w, token in zip(done, full, strict=True))
