"""The fastest drafting method and length for this model, machine and kind of text: tried, not guessed.

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943, section 3) over the registered methods and
a few lengths of each: everyone decodes a few short texts beside plain decoding; the better half goes on to
longer ones, until few are left, which are timed most carefully. Every round takes plain decoding and the
candidates in turn, in an order that rotates, and compares within the turn, so that a machine that is slower
for a while hits all alike. Lossy methods are no candidates: the text must stay the target's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, SettingsError, WorkbenchError
from workbench.speculation.benchmarking import PLAIN, chosen
from workbench.speculation.measuring import Decoded, Summary, summarize

if TYPE_CHECKING:
    from workbench.machine import Machine
    from workbench.settings import Settings
    from workbench.shape import ModelShape

#: Control -> lengths to try.
LENGTHS: dict[str, tuple[int, ...]] = {"gamma": (2, 4, 8), "nodes": (6, 14, 30), "span": (4, 10),
                                       "window": (4, 8)}
#: New tokens of a generation in the first round; doubled in every round.
_NEW = 24
#: Candidates of the last round, and turns of it.
_LAST, _TURNS = 3, 3
#: Below this ratio plain decoding is the recommendation.
_WORTH = 1.02
#: decode(settings, prompts) as one batch.
Decoder = Callable[["Settings", Sequence[str]], Decoded]


@dataclass(frozen=True)
class Place:
    """A candidate's result: of its last round. ``rounds`` that it took part in."""

    decoding: str
    summary: Summary
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        return {"decoding": self.decoding, "rounds": self.rounds, **self.summary.to_dict()}


@dataclass(frozen=True)
class Ranking:
    """``places``: best first, those of later rounds before those that were dropped. ``skipped``: what
    cannot work here -> why. ``finished``: False when it was cancelled, and earlier rounds decide."""

    places: tuple[Place, ...]
    skipped: dict[str, str]
    plain_tok_per_s: float
    finished: bool = True

    @property
    def best(self) -> Place | None:
        """None where nothing beats plain decoding."""
        first = self.places[0] if self.places else None
        return first if first is not None and first.summary.ratio >= _WORTH else None

    @property
    def changes(self) -> dict[str, Any]:
        """Settings to apply: ``session.set(**ranking.changes)``."""
        return {"decoding": self.best.decoding if self.best is not None else PLAIN}

    def describe(self) -> str:
        if self.best is None:
            return "nothing beats plain decoding for these prompts here"
        s = self.best.summary
        return (f"{self.best.decoding}: {s.ratio:.2f} times plain decoding's tokens per second "
                f"({s.ratio_low:.2f} to {s.ratio_high:.2f}, {s.runs} pairs), "
                f"{s.per_forward or 1:.2f} tokens per forward")

    def to_dict(self) -> dict[str, Any]:
        return {"best": self.changes, "finished": self.finished, "plain_tok_per_s": self.plain_tok_per_s,
                "places": [p.to_dict() for p in self.places], "skipped": dict(self.skipped)}


def candidates(base: Settings, shape: ModelShape, machine: Machine) -> tuple[list[str], dict[str, str]]:
    """(what can be tried, what cannot -> why): every lossless method with its lengths."""
    from workbench.techniques.base import family

    found: list[str] = []
    skipped: dict[str, str] = {}
    for name, technique in family("decoding").items():
        if name == PLAIN or name.startswith("diffusion_") or not technique.lossless:
            continue
        try:
            settings = base.with_({"decoding": name})
            settings.check(shape, machine)
        except WorkbenchError as error:
            skipped[name] = str(error)
            continue
        found += _variants(name, settings)
    return found, skipped


def _variants(name: str, settings: Settings) -> list[str]:
    controls = {c.name: c for c in settings.decoding.controls()}
    if "tree" in controls and "auto" in (controls["tree"].choices or ()):
        extra = [f"{name}(tree=auto)"]
    else:
        extra = []
    knob = next((c for c in LENGTHS if c in controls), None)
    if knob is None:
        return [name, *extra]
    low, high = controls[knob].low or 1, controls[knob].high or 1 << 30
    return [f"{name}({knob}={n})" for n in LENGTHS[knob] if low <= n <= high] + extra


class Search:
    """``decode`` runs a generation; ``told(done, total, what)`` hears of progress in generations."""

    def __init__(self, decode: Decoder, base: Settings, methods: Sequence[str], prompts: Sequence[str], *,
                 told: Callable[[int, int, str], None] = lambda done, total, what: None) -> None:
        if not prompts:
            raise SettingsError("there are no prompts to try; name some text like that which you will decode")
        self.decode, self.base, self.prompts, self.told = decode, base, list(prompts), told
        self.settings, self.skipped = chosen(base, methods, False)
        self._places: dict[str, Place] = {}
        self._plain: list[float] = []
        self._done = 0
        self._total = self._generations(len(self.settings) - 1)

    def run(self) -> Ranking:
        """All rounds. A cancel ends it with what is known so far, unless nothing is: then Cancelled."""
        left = [m for m in self.settings if m != PLAIN]
        number, new = 1, _NEW
        try:
            while left:
                last = len(left) <= _LAST
                self._round(left, number, new, _TURNS if last else 1)
                left = [m for m in left if m in self._places]
                if last:
                    break
                ranked = sorted(left, key=lambda m: -self._places[m].summary.ratio)
                left = ranked[:max(_LAST, (len(ranked) + 1) // 2)]
                number, new = number + 1, 2 * new
        except Cancelled:
            if not self._places:
                raise
            return self.ranking(finished=False)
        return self.ranking(finished=True)

    def ranking(self, finished: bool) -> Ranking:
        ordered = sorted(self._places.values(), key=lambda p: (-p.rounds, -p.summary.ratio))
        speed = sorted(self._plain)[len(self._plain) // 2] if self._plain else 0.0
        return Ranking(tuple(ordered), dict(self.skipped), speed, finished)

    def _round(self, methods: Sequence[str], number: int, new: int, turns: int) -> None:
        pairs: dict[str, list[tuple[Decoded, Decoded]]] = {m: [] for m in methods}
        order = [PLAIN, *methods]
        if number == 1:
            for method in order:
                self._try(method)
        for turn in range(turns * len(self.prompts)):
            text = self.prompts[turn % len(self.prompts)]
            at = turn % len(order)
            done = {m: self._one(m, text, new) for m in order[at:] + order[:at] if m not in self.skipped}
            self._plain.append(done[PLAIN].tok_per_s)
            for method in methods:
                if method in done:
                    pairs[method].append((done[method], done[PLAIN]))
        for method, found in pairs.items():
            if found:
                self._places[method] = Place(method, summarize(found), number)

    def _try(self, method: str) -> None:
        """Warm up; what cannot work leaves the search with its reason."""
        self.told(self._done, self._total, f"warming up {method}")
        try:
            self.decode(self.settings[method].with_({"limits.max_new_tokens": 4}), [self.prompts[0]])
        except Cancelled:
            raise
        except WorkbenchError as error:
            if method == PLAIN:
                raise
            self.skipped[method] = str(error)

    def _one(self, method: str, text: str, new: int) -> Decoded:
        self.told(self._done, max(self._total, self._done + 1), method)
        self._done += 1
        return self.decode(self.settings[method].with_({"limits.max_new_tokens": new,
                                                        "limits.stop_at_eos": False}), [text])

    def _generations(self, methods: int) -> int:
        """How many there will be, if all can work."""
        total, left = 0, methods
        while left:
            last = left <= _LAST
            total += (1 + left) * len(self.prompts) * (_TURNS if last else 1)
            if last:
                break
            left = max(_LAST, (left + 1) // 2)
        return total


def shortened(ranking: Ranking, count: int) -> Ranking:
    """The same with its ``count`` best places."""
    return replace(ranking, places=ranking.places[:count])
