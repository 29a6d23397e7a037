"""Whether speculation pays on this machine for this text: measured, with hysteresis and new looks.

Speculating pays when a step's tokens per second beat a plain step's:

    gain = (tokens per speculative step / tokens per plain step) / (its seconds / a plain step's seconds)

Both kinds of step are timed while decoding. Clearly below 0.98 (by 1.5 standard errors: steps give few
tokens, and times are noisy) the loop decodes plainly; above 1.03 it speculates again; while it is not clear,
more plain steps are timed. While it is off, it looks again for a few steps now and then, longer while that
looks promising, and so seldom that the looks cost at most one percent of the plain decoding between them
(:meth:`Pays._pause`). Single times are clipped at twice their median: a step during which the machine was
busy elsewhere says nothing about the method.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

#: Speculative steps of one sequence before the first comparison, and of one look while it is off; several
#: sequences tell as much in fewer steps, but two it must be.
FIRST, LOOK, LEAST = 8, 4, 2
#: Plain steps of one comparison.
PLAIN = 3
#: Speculative steps between two renewals of the plain step's time.
RENEW = 128
#: Below the first it is switched off, above the second on again.
OFF, ON = 0.98, 1.03
#: Share of the plain decoding that looks may cost.
BUDGET = 0.01
#: Standard errors by which a comparison must be clear.
SURE = 1.5
_LEAST, _MOST = 32, 4096  # plain steps between two looks
_KEPT = 32


@dataclass
class _Steps:
    """Recent steps of one kind: seconds and tokens per sequence."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    tokens: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def add(self, seconds: float, tokens: float) -> None:
        self.seconds.append(seconds)
        self.tokens.append(tokens)

    def clear(self) -> None:
        self.seconds.clear()
        self.tokens.clear()

    def _clipped(self) -> list[float]:
        top = 2 * sorted(self.seconds)[len(self.seconds) // 2]
        return [min(s, top) for s in self.seconds]

    def step_s(self) -> float:
        """Mean seconds of a step, each clipped at twice the median."""
        return sum(self._clipped()) / len(self.seconds)

    def step_tokens(self) -> float:
        return sum(self.tokens) / len(self.tokens)

    def error(self) -> float:
        """Relative standard error of tokens per second."""
        n = len(self.tokens)
        return math.hypot(_spread(self._clipped()), _spread(self.tokens)) / math.sqrt(n) if n > 1 else 0.0


def _spread(values: Collection[float]) -> float:
    """Standard deviation over mean. (``statistics.stdev`` is exact and takes as long as a small forward.)"""
    n = len(values)
    mean = sum(values) / n
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1)) / mean if mean else 0.0


class Pays:
    """One run's decision, asked before and told after every step."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled, self.on = enabled, True
        self.switches = 0
        self.gain: float | None = None  # of the last comparison; None before one
        self._drafted, self._plain = _Steps(), _Steps()
        self._sequences = 0
        self._wanted = 0  # plain steps to take now, for the comparison
        self._since = 0  # speculative steps since plain ones were taken
        self._doubt = False  # the last comparison was not clear
        self._rest = 0  # plain steps until the next look
        self._looking = False

    def draft(self, sequences: int) -> bool:
        """Whether the next step, of this many sequences, should be drafted for."""
        if sequences != self._sequences:  # another batch has other costs
            self._sequences = sequences
            self._plain.clear()
            self._drafted.clear()
            self._wanted, self._looking = 0, False
            self._rest = min(self._rest, _LEAST)
        if not self.enabled:
            return True
        if self._wanted > 0:
            return False
        return self.on or self._looking

    def told(self, *, drafted: bool, seconds: float, tokens: int) -> str | None:
        """After a step: its seconds, and the tokens of all sequences. A sentence when the decision
        changed, else None."""
        if not self.enabled:
            return None
        each = tokens / max(1, self._sequences)
        if not drafted:
            return self._told_plain(seconds, each)
        self._drafted.add(seconds, each)
        self._since += 1
        enough = len(self._drafted.seconds) >= self._enough()
        old = self._since >= RENEW
        if enough and (len(self._plain.seconds) < PLAIN or old or (self._doubt and self._since >= FIRST)):
            if old:
                self._plain.clear()
            self._wanted, self._since = PLAIN, 0
            return None
        return self._decide() if enough and len(self._plain.seconds) >= PLAIN and self._turn() else None

    def _enough(self) -> int:
        """Speculative steps that a comparison needs."""
        return max(LEAST, -(-(LOOK if self._looking else FIRST) // max(1, self._sequences)))

    def _turn(self) -> bool:
        """A look is judged at every step, a run that speculates at every fourth."""
        return self._looking or self._since % 4 == 0

    def _told_plain(self, seconds: float, each: float) -> str | None:
        self._plain.add(seconds, each)
        if self._wanted > 0:
            self._wanted -= 1
            return self._decide() if self._wanted == 0 else None
        if self.on:
            return None
        self._rest -= 1
        if self._rest <= 0:
            self._looking = True
            self._drafted.clear()
        return None

    def _decide(self) -> str | None:
        plain, drafted = self._plain, self._drafted
        if len(drafted.seconds) < self._enough() or len(plain.seconds) < PLAIN:
            return None
        more = drafted.step_tokens() / plain.step_tokens()
        dearer = drafted.step_s() / plain.step_s()
        self.gain = more / dearer
        error = SURE * self.gain * math.hypot(drafted.error(), plain.error())
        self._doubt = self.gain - error < ON and self.gain + error >= OFF
        was = self.on
        if was:
            self.on = self.gain + error >= OFF
        else:
            surely = self.gain - error > ON or len(drafted.seconds) == _KEPT
            if not surely and self.gain + error >= ON:
                return None  # a promising look goes on
            self.on = self.gain >= ON
        if not self.on:
            self._rest = self._pause(more, dearer)
        self._looking = False
        if self.on == was:
            return None
        self.switches += 1
        return _sentence(self.on, more, dearer)

    def _pause(self, more: float, dearer: float) -> int:
        """Plain steps until the next look, for what a look loses: ``dearer - more`` plain steps each."""
        steps = max(len(self._drafted.seconds) if self._looking else 0, LOOK)
        lost = steps * max(0.0, dearer - more)
        return int(min(_MOST, max(_LEAST, lost / BUDGET)))


def _sentence(on: bool, more: float, dearer: float) -> str:
    what = (f"a drafted step gives {more:.2f} times the tokens of a plain one and takes {dearer:.2f} "
            "times as long")
    return (f"speculation pays again: {what}" if on else
            f"decoding plainly from here, because {what}; it is tried again now and then")
