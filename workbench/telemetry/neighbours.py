"""What the neighbours on this machine took from us while a run went on.

After CloudFormer (arXiv:2509.03394): a run on a shared machine is judged by system counters, and
figures that a neighbour disturbed carry a badge. Read four times a second from ``/proc``, without a
privilege: the time our own threads stood ready without a core (``schedstat``), how often they were
put aside, steal time, pressure (PSI) and the share of the CPU that other processes used. What a
system does not show is None.

The slowdown is estimated from the waiting alone: of a window of t seconds in which the thread that sets
the pace stood ready without a core for w, the work alone would have taken t - w, so it was t / (t - w)
times as long; a share s of stolen time stretches it by 1 / (1 - s) more.
Threads of one process wait for each other too: w is at most the core-seconds that others used.
What neighbours take through caches and memory bandwidth shows in neither, only in the spread of
step times (``analysis.interference``).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workbench.events import Event, Interference

PERIOD_S = 0.25
#: A window in which our threads ran less says nothing about waiting, seconds.
_LEAST_S = 0.01


@dataclass(frozen=True)
class Counters:
    """Running totals, seconds since they began to count; None: this system does not show it."""

    own_s: float
    busy_s: float | None = None
    all_s: float | None = None
    steal_s: float | None = None
    pressure_s: float | None = None
    threads: dict[int, tuple[float, float]] | None = None
    switches: int | None = None


def read(proc: Path = Path("/proc")) -> Counters:
    """The totals now. ``threads``: id -> (seconds it ran, seconds it waited for a core)."""
    busy = total = steal = None
    tick = _tick()
    with contextlib.suppress(OSError, ValueError, IndexError):
        # user nice system idle iowait irq softirq steal, summed over the cores
        fields = [int(v) * tick for v in
                  (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        total, steal = sum(fields), fields[7]
        busy = total - fields[3] - fields[4] - steal
    return Counters(_own(), busy, total, steal, _pressure(proc), _threads(proc), _switches())


def _tick() -> float:
    try:
        return 1.0 / os.sysconf("SC_CLK_TCK")
    except (AttributeError, ValueError, OSError):
        return 0.01


def _own() -> float:
    times = os.times()
    return times.user + times.system


def _switches() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _pressure(proc: Path) -> float | None:
    """Seconds in which at least one task waited for a core."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = (proc / "pressure" / "cpu").read_text().splitlines()[0]
        return int(line.rsplit("total=", 1)[1]) * 1e-6
    return None


def _threads(proc: Path) -> dict[int, tuple[float, float]] | None:
    found: dict[int, tuple[float, float]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(proc / "self" / "task"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                ran, waited = (proc / "self" / "task" / name / "schedstat").read_text().split()[:2]
                found[int(name)] = (int(ran) * 1e-9, int(waited) * 1e-9)
    return found or None


def between(a: Counters, b: Counters, start_s: float, end_s: float) -> Interference:
    """What happened from one reading to the next."""
    span = max(end_s - start_s, 1e-9)
    capacity = None if a.all_s is None or b.all_s is None else b.all_s - a.all_s
    others = steal = None
    if capacity and a.busy_s is not None and b.busy_s is not None:
        others = _share((b.busy_s - a.busy_s) - (b.own_s - a.own_s), capacity)
        steal = _share((b.steal_s or 0.0) - (a.steal_s or 0.0), capacity)
    taken = None if others is None or capacity is None else others * capacity
    waited = _waited(a.threads, b.threads, taken, span)
    pressure = None if a.pressure_s is None or b.pressure_s is None else _share(
        b.pressure_s - a.pressure_s, span)
    switches = None if a.switches is None or b.switches is None else max(0.0, (
        b.switches - a.switches) / span)
    slowdown = None if waited is None else 1.0 / (
        (1.0 - min(waited, 0.95)) * (1.0 - min(steal or 0.0, 0.95)))
    return Interference(t_s=end_s, start_s=start_s, end_s=end_s, others=others, steal=steal,
                        waited=waited, involuntary_per_s=switches, pressure=pressure,
                        slowdown=slowdown)


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole))


def _waited(a: dict[int, tuple[float, float]] | None, b: dict[int, tuple[float, float]] | None,
            taken: float | None, span: float) -> float | None:
    """Share of ``span`` that the thread that sets the pace waited. ``taken``: core-seconds that others
    used; waiting beyond them was for our own threads, which is no neighbour's doing."""
    if a is None or b is None:
        return None
    spans = [(ran - a[t][0], waited - a[t][1]) for t, (ran, waited) in b.items() if t in a]
    spans = [s for s in spans if s[0] > _LEAST_S]
    if not spans:
        return None
    # Threads of one parallel region end together, so the one that waited longest sets the pace.
    most = max(ran for ran, _ in spans)
    most_taken = float("inf") if taken is None else taken
    return min(1.0, max(min(waited, most_taken) for ran, waited in spans if ran > 0.5 * most) / span)


class Neighbours:
    """Samples on its own thread from ``start()`` to ``stop()``; about 0.1 ms each."""

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float],
                 period_s: float = PERIOD_S, proc: Path = Path("/proc")) -> None:
        self._emit, self._clock, self._period_s, self._proc = emit, clock, period_s, proc
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._last: tuple[Counters, float] | None = None

    def start(self) -> None:
        if not (self._proc / "stat").exists():
            return  # not Linux: no events, and the panel says so
        self._last = read(self._proc), self._clock()
        self._thread = threading.Thread(target=self._run, name="neighbours", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._sample()

    def _sample(self) -> None:
        now, at = read(self._proc), self._clock()
        if self._last is not None:
            self._emit(between(self._last[0], now, self._last[1], at))
        self._last = now, at

    def stop(self) -> None:
        """One last window, so that the end of a run is covered."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2)
            self._thread = None
            self._sample()
