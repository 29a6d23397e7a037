"""The table of weight schemes: size, speed against the untouched model, quality with errors, calibration.

Quality comes from :mod:`workbench.quality.study`; speed from runs that alternate with the untouched
model's, so that drift hits both; calibration from a process of its own. Rows are kept one by one: a
stopped table goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, SettingsError, WorkbenchError
from workbench.events import Event, Progress
from workbench.machine import home
from workbench.quality.calibration_cost import Cost, cost
from workbench.quality.study import REFERENCE, Row, study, study_key

if TYPE_CHECKING:
    from workbench.settings import Settings

Emit = Callable[[Event], None]
TOKENS, ROUNDS = 64, 6
#: What is compared where nothing is named: each format near 8, 4, 3 and 2 bits, 70 % zeros, then what
#: calibrates.
SCHEMES = ("int8", "w8a8", "fp8", "bfp(mantissa=8)", "rtn(bits=6)", "rtn(bits=5)", "int4", "nf4", "mxfp4",
           "nvfp4", "nvfp4(scale=ue5m3)", "bfp", "bipolar(bits=4)", "rtn(bits=3)", "bipolar(bits=3)",
           "rtn(bits=2)", "bipolar(bits=1)", "lmul", "sparse", "gptq", "awq", "rotation", "mixed",
           "gptq(bits=3)", "awq(bits=3)", "rotation(bits=3)", "gptq(bits=2)")


@dataclass(frozen=True)
class Speed:
    """Greedy decoding against the untouched model in alternating runs: median and quartiles of the ratio,
    and tokens per second of the scheme's median run."""

    ratio: float
    low: float
    high: float
    tok_per_s: float
    rounds: int


@dataclass(frozen=True)
class Line:
    """``row`` is None where the scheme failed; ``error`` says why."""

    scheme: str
    row: Row | None
    speed: Speed | None
    calibration: Cost | None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def known_schemes(wanted: Sequence[str]) -> list[str]:
    """``wanted``, or all of SCHEMES whose technique is installed. Raises SettingsError for a wrong name."""
    from workbench.settings import Settings
    from workbench.techniques.base import family

    names = family("weights")
    found = list(wanted) or [s for s in SCHEMES if s.partition("(")[0] in names]
    for scheme in found:
        Settings().with_(weights=scheme)
    return [s for s in dict.fromkeys(found) if s != REFERENCE]


def table(settings: Settings, schemes: Sequence[str], emit: Emit, cancelled: Callable[[], bool], *,
          level: str = "quick", speed: bool = True, rounds: int = ROUNDS, again: bool = False,
          keep: Path | None = None) -> Iterator[Line]:
    """The reference's line, then one per scheme. ``again``: measure what is kept, too. ``keep``: folder of
    what a stopped table goes on from. Raises SettingsError and Cancelled; what else a scheme fails with
    is its line's ``error``."""
    if rounds < 2:
        raise SettingsError(f"speeds need at least 2 rounds, not {rounds}")
    wanted = known_schemes(schemes)
    folder = keep or home() / "cache" / "tables" / _key(settings, level)
    folder.mkdir(parents=True, exist_ok=True)
    work = _Table(settings, level, rounds, speed, again, folder, emit, cancelled)
    yield work.reference()
    for scheme in wanted:
        yield work.line(scheme)


def _key(settings: Settings, level: str) -> str:
    """Another one when the checkpoint's files change."""
    return study_key(settings.with_(weights=REFERENCE), level, 0, "")


def _kernels() -> str:
    """What multiplies here now: other kernels, other speeds."""
    import torch

    from workbench.runtime import native_library

    found = native_library.isa() if native_library.available() else native_library.why_not()
    return f"{found} {torch.__version__}"


@dataclass
class _Table:
    settings: Settings
    level: str
    rounds: int
    speed: bool
    again: bool
    folder: Path
    emit: Emit
    cancelled: Callable[[], bool]

    def reference(self) -> Line:
        return Line(REFERENCE, self._quality(()), None, Cost(0.0, 0))

    def line(self, scheme: str) -> Line:
        if self.cancelled():
            raise Cancelled("cancelled")
        row, speed, spent = None, None, None
        try:
            row = self._quality((scheme,))
            settings = self.settings.with_(weights=scheme)
            spent = Cost(**self._kept(f"{scheme} calibration", lambda: self._cost(settings)))
            if self.speed:
                speed = Speed(**self._kept(f"{scheme} speed {self.rounds} {_kernels()}",
                                           lambda: self._speed(settings)))
        except Cancelled:
            raise
        except WorkbenchError as error:
            return Line(scheme, row, speed, spent, str(error))
        return Line(scheme, row, speed, spent)

    def _quality(self, schemes: Sequence[str]) -> Row:
        rows = list(study(self.settings, schemes, self.emit, self.cancelled, level=self.level, tasks=0,
                          keep=self.folder))
        return rows[-1]

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:12]}.kept"
        if not self.again:
            with suppress(OSError, ValueError):
                kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
                return kept
        made = make()
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(made), "utf-8")
        aside.replace(path)
        return made

    def _cost(self, settings: Settings) -> dict[str, Any]:
        self.emit(Progress(what="calibration cost", done=0, detail=str(settings.weights)))
        return asdict(cost(settings, self.cancelled))

    def _speed(self, settings: Settings) -> dict[str, Any]:
        from workbench.runtime import load

        plain = load(self.settings.with_(weights=REFERENCE), self.emit, self.cancelled)
        try:
            model = load(settings, self.emit, self.cancelled)
            try:
                return asdict(self._alternate(plain, model, settings))
            finally:
                model.close()
        finally:
            plain.close()

    def _alternate(self, plain: Any, model: Any, settings: Settings) -> Speed:
        changes = {"decoding": "plain", "sampling.temperature": 0.0, "limits.batch": 1,
                   "limits.max_new_tokens": TOKENS, "limits.stop_at_eos": False}
        runs = [(plain, self.settings.with_({**changes, "weights": REFERENCE})),
                (model, settings.with_(changes))]
        ratios, rates = [], []
        for turn in range(-1, self.rounds):
            self.emit(Progress(what="speed", done=max(0, turn), total=self.rounds,
                               detail=str(settings.weights)))
            found = []
            for one, chosen in (runs if turn % 2 else runs[::-1]):
                output = one.generate(["def main("], chosen, lambda event: None, self.cancelled)
                found.append((one is model, len(output.tokens[0]) / output.seconds))
            by = dict(found)
            if turn >= 0:
                ratios.append(by[True] / by[False])
                rates.append(by[True])
        quarters = statistics.quantiles(ratios, n=4, method="inclusive")
        return Speed(quarters[1], quarters[0], quarters[2], statistics.median(rates), self.rounds)
