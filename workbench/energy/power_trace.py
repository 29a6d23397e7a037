"""Power of one server over time, recorded: from a CSV file or from runs of ours. Never made up here.

A CSV has a column of seconds (``t_s``, ``time_s``, ``time``, ``timestamp``, ``seconds``) and one of watts
(``w``, ``watts``, ``power_w``, ``power``); a column ``phase`` (``prefill`` or ``prompt``, else token work)
and ``server`` (one trace per value) may be there.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import events as ev
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import numpy as np

_TIME = ("t_s", "time_s", "time", "timestamp", "seconds", "t")
_WATTS = ("w", "watts", "power_w", "power", "watt")
_LARGEST = 5_000_000


@dataclass(frozen=True)
class PowerTrace:
    """``watts`` and ``prompt`` (share of each step in the prompt phase) every ``step_s``; ``idle_w`` without
    work. ``source``: where it was recorded."""

    watts: np.ndarray
    prompt: np.ndarray
    step_s: float
    idle_w: float
    source: str

    @property
    def seconds(self) -> float:
        return len(self.watts) * self.step_s

    @property
    def peak_w(self) -> float:
        return float(self.watts.max())


def resample(times: Sequence[float], watts: Sequence[float], prompt: Sequence[bool], step_s: float,
             idle_w: float | None, source: str) -> PowerTrace:
    """Onto even steps; each holds the reading that was valid longest ago in it. ``idle_w`` None: the
    least that was seen. Raises WorkbenchError below two steps."""
    import numpy as np

    t = np.asarray(times, dtype=np.float64)
    w = np.asarray(watts, dtype=np.float64)
    order = np.argsort(t, kind="stable")
    t, w, p = t[order], w[order], np.asarray(prompt, dtype=np.float64)[order]
    count = math.floor((t[-1] - t[0]) / step_s) if len(t) > 1 else 0
    if count < 2:
        raise WorkbenchError(f"{source} spans less than two steps of {step_s:g} s; record for longer")
    # Means over each step: the integral of the step function at the step's edges.
    edges = t[0] + step_s * np.arange(count + 1)
    return PowerTrace(_means(t, w, edges), _means(t, p, edges), step_s,
                      float(w.min()) if idle_w is None else idle_w, source)


def _means(t: np.ndarray, value: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of a function that holds each value until the next one."""
    import numpy as np

    total = np.concatenate([[0.0], np.cumsum(value[:-1] * np.diff(t))])
    at = np.searchsorted(t, edges, side="right") - 1
    here = total[at] + value[at] * (edges - t[at])
    return np.diff(here) / np.diff(edges)


def read_csv(path: Path, step_s: float = 1.0, idle_w: float | None = None) -> list[PowerTrace]:
    """One trace per server of a CSV file. Raises WorkbenchError naming the line or the columns."""
    rows: dict[str, list[tuple[float, float, bool]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = {n.strip().lower(): n for n in reader.fieldnames or []}
            time = next((names[n] for n in _TIME if n in names), None)
            power = next((names[n] for n in _WATTS if n in names), None)
            if time is None or power is None:
                raise WorkbenchError(f"{path} needs a column of seconds ({', '.join(_TIME)}) and one of "
                                     f"watts ({', '.join(_WATTS)}); it has {', '.join(names) or 'none'}")
            server, phase = names.get("server"), names.get("phase")
            for number, row in enumerate(reader, 2):
                if number > _LARGEST:
                    raise WorkbenchError(f"{path} has more than {_LARGEST:,} rows; thin it out")
                rows.setdefault(row[server] if server else "", []).append(
                    _row(path, number, row, time, power, phase))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WorkbenchError(f"cannot read {path}: {error}") from None
    if not rows:
        raise WorkbenchError(f"{path} has a header and no rows")
    return [resample([t for t, _, _ in r], [w for _, w, _ in r], [p for _, _, p in r], step_s, idle_w,
                     f"{path.name}{' ' + s if s else ''}") for s, r in rows.items()]


def _row(path: Path, number: int, row: dict[str, Any], time: str, power: str, phase: str | None
         ) -> tuple[float, float, bool]:
    try:
        t, w = float(row[time]), float(row[power])
    except (TypeError, ValueError):
        raise WorkbenchError(f"{path}, line {number}: {row[time]!r} and {row[power]!r} are not numbers"
                             ) from None
    if not (math.isfinite(t) and math.isfinite(w)) or w < 0:
        raise WorkbenchError(f"{path}, line {number}: seconds and watts must be finite, watts not negative")
    return t, w, bool(phase) and str(row[phase or ""]).strip().lower() in ("prefill", "prompt")


def from_run(events: Iterable[ev.Event], source: str, step_s: float = 0.1) -> PowerTrace:
    """The measured power of one of our runs, all devices together, with its prompt phase.

    Raises WorkbenchError when power was not measured: an estimate is not a recording."""
    events = list(events)
    readings = [e for e in events if isinstance(e, ev.Power) and e.quality == "measured"]
    devices: dict[str, list[tuple[float, float]]] = {}
    for e in readings:
        watts = e.instant_w if e.instant_w is not None else e.average_w
        if watts is not None:
            devices.setdefault(e.device, []).append((e.t_s, watts))
    if not devices:
        raise WorkbenchError(f"{source} has no measured power, so there is nothing to replay; give a CSV "
                             "file or run on a machine with a sensor")
    prompt = [(e.start_s, e.end_s) for e in events if isinstance(e, ev.Phase) and e.phase == "prefill"]
    times = sorted({t for d in devices.values() for t, _ in d})
    together = [sum(_held(d, t) for d in devices.values()) for t in times]
    idle = [e.idle_w for e in events if isinstance(e, ev.SensorStatus) and e.idle_w is not None]
    return resample(times, together, [any(a <= t < b for a, b in prompt) for t in times], step_s,
                    sum(idle) if len(idle) == len(devices) else None, source)


def _held(readings: list[tuple[float, float]], t: float) -> float:
    """The reading that holds at ``t``: the last one before, or the first."""
    import bisect

    i = bisect.bisect_right(readings, (t, math.inf)) - 1
    return readings[max(i, 0)][1]
