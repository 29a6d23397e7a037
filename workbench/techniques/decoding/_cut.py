"""Where to cut a tree whose nodes come in falling order of worth: one more node costs a row.

A tree searched anew at every step (ADED) has no fixed shape. With r the tokens per second of the decoding so
far, the number of nodes that gains the most over plain use of the same time is

    argmax over n of  worths of the first n nodes - r t(1 + n)

(Dinkelbach's rule for the maximum of tokens over seconds; the search for the whole text's best ratio turns
into one such choice per step). Worths are a drafter's own probabilities, which promise too much or too
little, so they are corrected by how often nodes of that worth were kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.techniques.decoding._planner import Curve

_BINS, _PER_OCTAVE = 16, 1.5
_WEIGHT, _FADE = 8.0, 0.98
_BLEND = 1 / 32  # of the newest step in the running rate


class Reliability:
    """How often a node of a promised worth was kept, in bins of half octaves and some."""

    def __init__(self) -> None:
        self._kept = [0.0] * _BINS
        self._tried = [0.0] * _BINS

    def count(self, promised: Sequence[float], kept: set[int]) -> None:
        """One verification: the nodes' promises, and the places of those that were kept."""
        for place, worth in enumerate(promised):
            b = self._bin(worth)
            self._tried[b] = self._tried[b] * _FADE + 1.0
            self._kept[b] = self._kept[b] * _FADE + (place in kept)

    def __call__(self, worth: float) -> float:
        """What a promise is worth by experience; the promise itself before there is any."""
        b = self._bin(worth)
        return (self._kept[b] + _WEIGHT * worth) / (self._tried[b] + _WEIGHT)

    @staticmethod
    def _bin(worth: float) -> int:
        return min(_BINS - 1, int(-math.log2(max(1e-9, min(1.0, worth))) * _PER_OCTAVE))


class Cut:
    """The number of nodes worth their rows, step by step. ``most``: nodes at most."""

    def __init__(self, verify: Curve, most: int) -> None:
        self._limit = min(most, verify.most - 1)
        self._last = self._limit
        self.reliability = Reliability()
        self._verify = verify
        self._tokens = self._seconds = 0.0
        self._began: float | None = None
        self._promised: Sequence[float] = ()
        self._nodes, self._steps = 0, 0

    @property
    def most(self) -> int:
        """Nodes worth searching for now: searching takes time too."""
        return min(self._limit, max(8, 2 * self._last))

    def begin(self) -> None:
        """A step begins and the one before it is over."""
        now = time.perf_counter()
        if self._began is not None:
            usual = self._seconds if self._steps > 4 else 1e9
            self._seconds += _blend(self._steps) * (min(now - self._began, 4 * usual) - self._seconds)
        self._began = now

    def nodes(self, worths: Sequence[float]) -> int:
        """How many of the nodes to keep, one at least, for promises that never rise."""
        if not worths:
            return 0
        rate = self._tokens / self._seconds if self._steps and self._seconds else 1.0 / self._verify(1)
        best, chosen, yielded = -math.inf, 1, 0.0
        real = 1.0
        for n, worth in enumerate(worths[:self._limit], 1):
            real = min(real, self.reliability(worth))
            yielded += real
            gain = yielded - rate * self._verify(1 + n)
            if gain > best:
                best, chosen = gain, n
        self._promised = list(worths[:chosen])
        self._last = chosen
        self._nodes += chosen
        return chosen

    def verified(self, kept: set[int], tokens: int) -> None:
        """The outcome: places of the kept nodes, and the tokens that the step gave."""
        self.reliability.count(self._promised, kept)
        self._steps += 1
        self._tokens += _blend(self._steps) * (tokens - self._tokens)

    def describe(self) -> str:
        mean = self._nodes / self._steps if self._steps else 0.0
        return f"auto: {mean:.1f} nodes on average, cut where a row costs more than it gives"


def _blend(steps: int) -> float:
    return max(_BLEND, 1.0 / max(1, steps))
