"""How many tokens to draft for a sequence: as long as one more is worth what it costs.

With P(k) the chance that drafted token k is kept, s the seconds that one more row of a verification takes,
c those of drafting it, and r the tokens per second now, token k is worth drafting while

    P(k) > r (s + c)

(it then adds more tokens than the time it takes would give otherwise). This is the maximum of tokens over
seconds by Dinkelbach's rule, with the rate of the running average. P is counted per sequence and place, and
leans on the batch's counts while a sequence has few; s and c are measured.
"""

from __future__ import annotations

from collections.abc import Sequence

_FADE = 0.97  # of the counts, per verification: about the last 33 count
_LEAN = 3.0  # verifications that the batch's counts stand for in a sequence's
_PRIOR = 0.7  # chance of one more token before anything was seen
_LEAST_STEPS = 6  # verifications before the rule is used


class Chances:
    """Counts of kept tokens by their place in the proposal."""

    def __init__(self) -> None:
        self._tried: list[float] = []
        self._kept: list[float] = []

    def count(self, drafted: int, kept: Sequence[int]) -> None:
        """``drafted`` tokens were proposed and those at the places ``kept`` stayed."""
        self._tried = [n * _FADE for n in self._tried] + [0.0] * (drafted - len(self._tried))
        self._kept = [n * _FADE for n in self._kept] + [0.0] * (drafted - len(self._kept))
        for place in range(drafted):
            self._tried[place] += 1.0
        for place in kept:
            self._kept[place] += 1.0

    def at(self, place: int) -> tuple[float, float]:
        """(kept, tried) of a place."""
        return (self._kept[place], self._tried[place]) if place < len(self._tried) else (0.0, 0.0)


class Cost:
    """Seconds of a verification by its rows: a + s * rows, least squares over recent steps."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, rows: int, seconds: float) -> None:
        self._n, self._x, self._y = (v * _FADE for v in (self._n, self._x, self._y))
        self._xx, self._xy = self._xx * _FADE + rows * rows, self._xy * _FADE + rows * seconds
        self._n, self._x, self._y = self._n + 1, self._x + rows, self._y + seconds

    def row_s(self) -> float:
        """Seconds of one more row; where all steps had the same rows, a fortieth of a step's."""
        spread = self._n * self._xx - self._x**2
        if spread <= 1e-9 * max(1.0, self._n * self._xx):
            return self._y / max(1.0, self._n) / 40
        return max(0.0, (self._n * self._xy - self._x * self._y) / spread)


class Lengths:
    """The rule for all sequences of a run. ``most``: the method's own limit."""

    def __init__(self, most: int, sequences: int) -> None:
        self._most = most
        self._each = [Chances() for _ in range(sequences)]
        self._all = Chances()
        self._verify = Cost()
        self._draft_s = self._rate = 0.0
        self._steps = 0

    def of(self, sequence: int) -> int:
        """Tokens to draft for it now: 1 to ``most``."""
        if self._steps < _LEAST_STEPS:
            return self._most
        price = self._rate * (self._verify.row_s() + self._draft_s)
        chance, length = 1.0, 0
        while length < self._most:
            chance = min(chance, self._chance(sequence, length, chance))
            if chance <= price:
                break
            length += 1
        return max(1, length)  # one token is drafted always, or nothing would be learnt any more

    def _chance(self, sequence: int, place: int, before: float) -> float:
        kept, tried = self._all.at(place)
        pooled = (kept + before * _PRIOR) / (tried + 1.0)
        kept, tried = self._each[sequence].at(place)
        return (kept + _LEAN * pooled) / (tried + _LEAN)

    def verified(self, sequence: int, drafted: int, kept: Sequence[int]) -> None:
        """The outcome for one sequence: which places of the proposal were kept."""
        self._each[sequence].count(drafted, kept)
        self._all.count(drafted, kept)

    def stepped(self, rows: int, verify_s: float, drafted: int, draft_s: float, step_s: float,
                tokens: int) -> None:
        """The costs of a whole step, and what it gave."""
        self._verify.add(rows, verify_s)
        self._steps += 1
        blend = 1.0 / min(self._steps, 16)
        if drafted:
            self._draft_s += blend * (draft_s / drafted - self._draft_s)
        self._rate += blend * (tokens / max(step_s, 1e-9) - self._rate)
