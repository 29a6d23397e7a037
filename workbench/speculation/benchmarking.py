"""Every drafting method on every kind of prompt, beside plain decoding: counts, ratios, sameness, memory.

Counts do not depend on the machine's load. Times do, so each prompt is decoded plainly and by every method
in turn, in an order that rotates, and a ratio is taken within its turn. Whatever is done is kept in a state
file after every generation: a second call with the same question goes on where the first one ended.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, SettingsError, WorkbenchError, one_of
from workbench.speculation import equality
from workbench.speculation.measuring import CLOCKS, Decoded, Summary, decode, summarize

if TYPE_CHECKING:
    from workbench.runtime.model import Model
    from workbench.settings import Settings
    from workbench.zoo import Prompt

#: Tokens of the generation that shows whether a method can work at all, and warms it up.
_TRIAL = 8
PLAIN = "plain"


@dataclass(frozen=True)
class Row:
    """One method on one kind of prompt (``all``: over all kinds).

    ``identical`` of ``runs`` outputs equal plain's; of the others' tokens, which the plain target judged
    one by one, ``near_ties`` and ``bugs`` differ (None: sampled by a rule that keeps the distribution
    only, or a method that is not lossless)."""

    method: str
    kind: str
    summary: Summary
    near_ties: int | None = 0
    bugs: int | None = 0

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, "kind": self.kind, "near_ties": self.near_ties, "bugs": self.bugs,
                **self.summary.to_dict()}


@dataclass
class Results:
    """``rows`` in the order of methods and kinds; ``skipped``: method -> why it cannot work here."""

    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"rows": [r.to_dict() for r in self.rows], "skipped": dict(self.skipped)}

    def row(self, method: str, kind: str = "all") -> Row:
        return next(r for r in self.rows if (r.method, r.kind) == (method, kind))


class Benchmark:
    """``methods``: names with arguments, as ``decoding=`` takes them. ``told(done, total, what)``.
    ``clock``: ``wall``, or ``cpu`` for a busy machine (the process's seconds; use one thread).

    ``fallback``: whether methods may fall back to plain decoding where they do not pay (None: as they are
    set); the ratio of a method that fell back says little about the method."""

    def __init__(self, model: Model, base: Settings, methods: Sequence[str],
                 prompts: Mapping[str, Sequence[Prompt]], *, repeats: int = 2, batch: int = 1,
                 fallback: bool | None = False, state: Path | None = None, clock: str = "wall",
                 told: Callable[[int, int, str], None] = lambda done, total, what: None,
                 cancelled: Callable[[], bool] = lambda: False) -> None:
        if not prompts or not all(prompts.values()):
            raise SettingsError("there are no prompts to decode; name kinds that have some")
        if clock not in CLOCKS:
            raise SettingsError(one_of("clock", clock, list(CLOCKS)))
        self.model, self.base, self.repeats, self.batch = model, base, repeats, batch
        self.clock = clock
        self.prompts = {kind: list(rows) for kind, rows in prompts.items()}
        self.told, self.cancelled = told, cancelled
        self.settings, self.skipped = chosen(base, methods, fallback)
        self._state = state
        self._done: dict[str, dict[str, dict[str, Any]]] = {}  # turn -> method -> Decoded and verdict
        self._load()

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> Results:
        """Decode what is not done yet, and sum up. Raises Cancelled; what is done stays in the state."""
        self._try_methods()
        turns = self._turns()
        methods = [m for m in self.settings if m not in self.skipped]
        for number, (key, kind, prompts) in enumerate(turns):
            kept = self._done.setdefault(key, {})
            self.told(number, len(turns), kind)
            places = number % len(methods)
            for method in methods[places:] + methods[:places]:
                if method not in kept:
                    kept[method] = self._decode(method, prompts).to_dict()
                    self._save()  # a turn can be longer than the time that there is
            self._judge(kept, prompts)
            self._save()
        self.told(len(turns), len(turns), "done")
        return self.results()

    def _turns(self) -> list[tuple[str, str, list[Prompt]]]:
        """(key, kind, prompts of the batch) of everything that is to be decoded."""
        found = []
        for repeat in range(self.repeats):
            for kind, rows in self.prompts.items():
                for start in range(0, len(rows), self.batch):
                    part = rows[start:start + self.batch]
                    found.append((f"{repeat}|{kind}|{part[0].id}", kind, part))
        return found

    def _try_methods(self) -> None:
        """Leave out what cannot work with this model, with its reason, before anything is timed."""
        text = next(iter(self.prompts.values()))[0].text
        for method, settings in self.settings.items():
            self.told(0, 0, f"warming up {method}")
            try:
                settings.check(self.model.shape, _machine())
                decode(self.model, settings.with_({"limits.max_new_tokens": _TRIAL}),
                       [text] * self.batch, self.cancelled)
            except Cancelled:
                raise
            except WorkbenchError as error:
                if method == PLAIN:
                    raise
                self.skipped[method] = str(error)

    def _decode(self, method: str, prompts: Sequence[Prompt]) -> Decoded:
        return decode(self.model, self.settings[method], [p.text for p in prompts], self.cancelled,
                      self.clock)

    def _judge(self, kept: dict[str, dict[str, Any]], prompts: Sequence[Prompt]) -> None:
        """Outputs that are not plain's go before the plain target, token by token."""
        plain = kept[PLAIN]["ids"]
        for method, found in kept.items():
            settings = self.settings.get(method)
            if "near_ties" in found or settings is None:
                continue
            if not equality.comparable(settings):
                found["near_ties"] = found["bugs"] = None
                continue
            near_ties = bugs = 0
            for place, (own, wanted) in enumerate(zip(found["ids"], plain, strict=True)):
                if list(own) != list(wanted):
                    verdict = equality.check(self.model, prompts[place].text, own, settings, place,
                                             self.cancelled)
                    near_ties += verdict.near_ties
                    bugs += verdict.bugs
            found["near_ties"], found["bugs"] = near_ties, bugs

    # -- results -----------------------------------------------------------------------------------

    def results(self) -> Results:
        """Of what is done and judged so far."""
        found = Results(skipped=dict(self.skipped))
        for method in self.settings:
            if method in self.skipped:
                continue
            every: list[dict[str, dict[str, Any]]] = []
            for kind in self.prompts:
                turns = [turn for key, k, _ in self._turns() if k == kind
                         and "bugs" in (turn := self._done.get(key, {})).get(method, {})]
                if turns:
                    found.rows.append(_row(method, kind, turns))
                    every += turns
            if every:
                found.rows.append(_row(method, "all", every))
        return found

    # -- state -------------------------------------------------------------------------------------

    def question(self) -> str:
        """What is being measured; another question does not go on from this one's state."""
        about = {"base": self.base.to_dict(), "batch": self.batch, "clock": self.clock,
                 "methods": {m: s.decoding.to_dict() for m, s in self.settings.items()},
                 "prompts": {k: [p.text for p in rows] for k, rows in self.prompts.items()}}
        return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()

    def _load(self) -> None:
        if self._state is None or not self._state.is_file():
            return
        try:
            kept = json.loads(self._state.read_text("utf-8"))
            if kept["question"] == self.question():
                self._done = kept["done"]
        except (ValueError, KeyError, TypeError):
            return  # another file, or half of one: it is measured anew

    def _save(self) -> None:
        if self._state is None:
            return
        part = self._state.with_suffix(f".{os.getpid()}.partial")
        part.write_text(json.dumps({"question": self.question(), "done": self._done}), "utf-8")
        part.replace(self._state)


def chosen(base: Settings, methods: Sequence[str], fallback: bool | None
           ) -> tuple[dict[str, Settings], dict[str, str]]:
    """(method -> settings, plain decoding first; what cannot be combined with ``base`` -> why). Raises
    SettingsError for names and values that do not exist."""
    from workbench.techniques.base import parse

    found, skipped = {PLAIN: base.with_({"decoding": PLAIN})}, dict[str, str]()
    for method in methods:
        parse("decoding", method)
        try:
            found[method] = with_method(base, method, fallback)
        except SettingsError as error:
            skipped[method] = str(error)
    return found, skipped


def with_method(base: Settings, method: str, fallback: bool | None) -> Settings:
    """``base`` with this decoding; raises SettingsError that names the valid ones."""
    found = base.with_({"decoding": method})
    if fallback is not None and hasattr(found.decoding, "fallback"):
        found = found.with_({"decoding.fallback": fallback})
    return found


def _row(method: str, kind: str, turns: Sequence[dict[str, dict[str, Any]]]) -> Row:
    def sums(key: str) -> int | None:
        values = [t[method].get(key) for t in turns]
        return None if None in values else sum(values)  # type: ignore[arg-type]

    pairs = [(_decoded(t[method]), _decoded(t[PLAIN])) for t in turns]
    return Row(method, kind, summarize(pairs), sums("near_ties"), sums("bugs"))


def _decoded(data: Mapping[str, Any]) -> Decoded:
    return Decoded(**{name: data[name] for name in Decoded.__dataclass_fields__})


def _machine() -> Any:
    from workbench.machine import this_machine

    return this_machine()


@contextmanager
def opened(settings: Settings) -> Iterator[Model]:
    """The model of these settings in this process, given back afterwards."""
    from workbench.runtime import load

    model = load(settings, lambda event: None)
    try:
        yield model
    finally:
        model.close()
