"""A profiled forward by module, class of module and operator: times that sum to the forward.

Windows are averaged: every row is seconds per forward. ``floor_s`` is the least time that the rows with
a floor could take, ``floor_share`` the share of the time that has one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from workbench import events as ev
from workbench.analysis.metrics import percentile

_PATH = re.compile(r"^(?P<path>.*?) ?\((?P<cls>[^()]*)\)$")


@dataclass(frozen=True)
class Part:
    """Seconds, bytes and FLOPs per forward. ``bytes flops floor_s`` cover ``known_s`` of ``seconds``."""

    name: str
    seconds: float
    calls: float
    bytes: int = 0
    flops: int = 0
    floor_s: float = 0.0
    known_s: float = 0.0

    @property
    def of_floor(self) -> float | None:
        """Floor over time of what has a floor; above 1 where data came from a cache."""
        return self.floor_s / self.known_s if self.known_s > 0 and self.floor_s > 0 else None


@dataclass(frozen=True)
class Step:
    """Timed forwards, without a profiler. ``spread``: inter-quartile range over the median."""

    p50_s: float
    p99_s: float
    spread: float
    forwards: int
    items: int


def is_module(events: Iterable[ev.Event]) -> bool:
    """Whether a module was profiled, rather than text generated."""
    return any(isinstance(e, ev.Phase) and e.phase == "forward" for e in events)


def step(events: Iterable[ev.Event]) -> Step | None:
    """None without timed forwards."""
    timed = [e for e in events if isinstance(e, ev.Phase) and e.phase == "forward"]
    if not timed:
        return None
    seconds = [e.end_s - e.start_s for e in timed]
    middle = percentile(seconds, 0.5)
    spread = (percentile(seconds, 0.75) - percentile(seconds, 0.25)) / middle if middle else 0.0
    return Step(middle, percentile(seconds, 0.99), spread, len(seconds), timed[-1].rows)


def path_of(kernel: ev.Kernel) -> tuple[str, str]:
    """(dotted path, class) of the module; the outermost has an empty path."""
    found = _PATH.match(kernel.module)
    return (found["path"], found["cls"]) if found else (kernel.module, "")


def top(kernel: ev.Kernel, depth: int = 1) -> str:
    """The first ``depth`` names of the path; what the outermost module does itself is ``(itself)``."""
    path, _ = path_of(kernel)
    return ".".join(path.split(".")[:depth]) or "(itself)"


def parts(events: Iterable[ev.Event], key: Callable[[ev.Kernel], str]) -> list[Part]:
    """Rows of ``key``, largest first. Operators on the host; on a GPU its kernels instead, because the
    host's time is spent beside them."""
    kernels = [e for e in events if isinstance(e, ev.Kernel)]
    gpu = any(k.kind == "kernel" for k in kernels)
    chosen = [k for k in kernels if (k.kind == "kernel") == gpu]
    windows = len({k.window for k in kernels}) or 1
    found: dict[str, list[ev.Kernel]] = {}
    for k in chosen:
        found.setdefault(key(k), []).append(k)
    rows = [_part(name, ks, windows) for name, ks in found.items()]
    return sorted(rows, key=lambda p: -p.seconds)


def _part(name: str, kernels: list[ev.Kernel], windows: int) -> Part:
    floors = [k for k in kernels if k.floor_s is not None]
    counted = [k for k in kernels if k.bytes is not None]
    return Part(name, sum(k.total_s for k in kernels) / windows, sum(k.calls for k in kernels) / windows,
                sum(k.bytes or 0 for k in counted) // windows,
                sum(k.flops or 0 for k in counted) // windows,
                sum(k.floor_s or 0.0 for k in floors) / windows,
                sum(k.total_s for k in floors) / windows)


def by_module(events: Iterable[ev.Event], depth: int = 2) -> list[Part]:
    """By the first ``depth`` names of the path (``blocks.3``)."""
    return parts(events, lambda k: top(k, depth))


def by_class(events: Iterable[ev.Event]) -> list[Part]:
    """By the class of the innermost module (``Linear``)."""
    return parts(events, lambda k: path_of(k)[1] or "(none)")


def by_operator(events: Iterable[ev.Event]) -> list[Part]:
    """By operator or kernel name."""
    return parts(events, lambda k: k.name)


def python_share(events: Iterable[ev.Event]) -> float | None:
    """Share of the profiled forward that is the modules' own Python and dispatch; the profiler's own
    cost per operator falls on it, so alone it is less. None without a window."""
    rows = by_operator(events)
    whole = sum(p.seconds for p in rows)
    return sum(p.seconds for p in rows if p.name == "python") / whole if whole > 0 else None


def peak_activations(events: Iterable[ev.Event]) -> int | None:
    """Most bytes that activations held at once, None when memory was not counted."""
    held = [e.activations_bytes for e in events if isinstance(e, ev.Memory)]
    return max(held) if held else None
