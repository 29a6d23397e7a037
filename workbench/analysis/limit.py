"""One step's time against this machine's limit: bytes moved, floor, what was achieved, what the host took.

A step is one forward of decoding and what lies between it and the next one. Its floor is the time that
reading its bytes once takes at the read bandwidth measured on this machine (or its FLOPs at the measured
rate, where that is more). Rows are classes of kernels, from the run's kernel windows, corrected for the
profiler as in :mod:`workbench.analysis.composition`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench import events as ev
from workbench.analysis.composition import Composition, compositions, role
from workbench.analysis.roofline import Ceilings

if TYPE_CHECKING:
    from workbench.settings import Settings
    from workbench.shape import ModelShape

DECODING = ("decode", "verify")


@dataclass(frozen=True)
class Row:
    """Seconds per step in one class of kernels. None: bytes, and so the floor, are not known."""

    name: str
    seconds: float
    moved: float | None = None
    flops: float | None = None
    floor_s: float | None = None

    @property
    def reached(self) -> float | None:
        """Share of the limit; above 1 where the caches served it."""
        return self.floor_s / self.seconds if self.floor_s and self.seconds else None


@dataclass(frozen=True)
class Limit:
    """``step_s``: mean from one step's begin to the next one's. ``weights_bytes kv_bytes``: what a step
    must read, None when unknown. ``rows`` and ``host_s`` sum to ``step_s``; without kernel windows the
    whole forward is one row."""

    step_s: float
    steps: int
    rows: tuple[Row, ...]
    host_s: float
    weights_bytes: float | None
    kv_bytes: float | None
    ceilings: Ceilings
    windows: int
    why_no_floor: str = ""

    @property
    def floor_s(self) -> float | None:
        """Weights and KV once, at the measured read bandwidth."""
        if self.weights_bytes is None or not self.ceilings.bytes_per_s:
            return None
        return (self.weights_bytes + (self.kv_bytes or 0.0)) / self.ceilings.bytes_per_s

    @property
    def achieved_bytes_per_s(self) -> float | None:
        if self.weights_bytes is None:
            return None
        return (self.weights_bytes + (self.kv_bytes or 0.0)) / self.step_s

    @property
    def reached(self) -> float | None:
        return self.floor_s / self.step_s if self.floor_s else None


def weights_per_step(settings: Settings, shape: ModelShape, events: list[ev.Event]) -> float | None:
    """Bytes of weights that one decoding step reads: every layer and the output head once.

    Of a peer what it says that it holds; None where it does not say or experts are chosen per token."""
    if settings.backend.name() != "native":
        held = [e.weights_bytes for e in events if isinstance(e, ev.Memory) and e.weights_bytes]
        return float(held[-1]) if held else None
    if shape.experts:
        return None
    weights, item = settings.weights, 4 if settings.weights.compute_dtype == "float32" else 2
    layer = sum(weights.storage_bytes(r, c) for _, r, c in shape.linears())
    head = (weights.storage_bytes(shape.vocab, shape.hidden) if weights.packs_head()
            else shape.embedding_parameters * item)
    return float(shape.layers * layer + head)


def limit(events: Iterable[ev.Event], ceilings: Ceilings, weights_bytes: float | None = None,
          kv_bytes_per_token: float | None = None) -> Limit | None:
    """None when fewer than two decoding steps were made.

    ``weights_bytes``: what every step reads of the weights; left out, the windows' own sums are taken.
    ``kv_bytes_per_token``: of all layers; times the mean number of cached tokens."""
    events = list(events)
    phases = [e for e in events if isinstance(e, ev.Phase) and e.phase in DECODING]
    if len(phases) < 2:
        return None
    captured = sum(e.overhead_s for e in events if isinstance(e, ev.KernelWindow)
                   and e.start_s > phases[0].start_s and e.start_s < phases[-1].start_s)
    span = phases[-1].start_s - phases[0].start_s
    step = max(0.0, span - captured) / (len(phases) - 1)
    composed = compositions(events)
    found = next((composed[p] for p in DECODING if p in composed), None)
    rows, moved = _rows(events, found, ceilings)
    forward = found.forward_s if found else _forward(events, phases)
    step = max(step, forward)
    if weights_bytes is None and moved:
        weights_bytes, kv_bytes_per_token = moved, None
    kv = _cached(events, phases) * kv_bytes_per_token if kv_bytes_per_token else None
    why = "" if ceilings.bytes_per_s else ("this machine's ceilings are not measured; run workbench "
                                           "doctor --measure")
    return Limit(step, len(phases), tuple(rows) or (Row("forward", forward),), step - forward,
                 weights_bytes, kv, ceilings, found.windows if found else 0, why)


def _forward(events: list[ev.Event], phases: list[ev.Phase]) -> float:
    clocked = [(e.forward_s, e.forwards) for e in events
               if isinstance(e, ev.StepTime) and e.phase in DECODING]
    if clocked and sum(n for _, n in clocked):
        return sum(s for s, _ in clocked) / sum(n for _, n in clocked)
    return sum(p.end_s - p.start_s for p in phases) / len(phases)


def _cached(events: list[ev.Event], phases: list[ev.Phase]) -> float:
    """Mean number of tokens that a step's attention reads, all sequences together."""
    started = next((e.prompt_tokens for e in events if isinstance(e, ev.RunStarted)), 0)
    return started + sum(p.tokens for p in phases) / 2


def _rows(events: list[ev.Event], found: Composition | None, ceilings: Ceilings
          ) -> tuple[list[Row], float]:
    """Classes of kernels, most time first, then launching; and the bytes of all together."""
    if found is None:
        return [], 0.0
    classes = _classes(events, found)
    n = found.windows
    scale = _scale(found)
    bytes_all = 0.0
    rows: list[Row] = []
    lines: dict[str, float] = defaultdict(float)
    for line in found.lines:
        cls = classes.get((line.name, line.module), ("other", None, None))[0]
        lines[cls] += line.seconds
    known = sum(lines.values()) or 1.0
    compute = sum(v for p, v in found.parts.items() if p not in ("launch", "stalled"))
    for cls, seconds in sorted(lines.items(), key=lambda i: -i[1]):
        members = [v for v in classes.values() if v[0] == cls]
        moved = _sum(m[1] for m in members)
        flops = _sum(m[2] for m in members)
        moved = None if moved is None else moved / n
        flops = None if flops is None else flops / n
        floor = None if moved is None else ceilings.floor_s(moved, flops or 0.0)
        bytes_all += moved or 0.0
        rows.append(Row(cls, seconds / known * compute * scale, moved, flops, floor))
    rows += [Row(part, found.parts[part]) for part in ("launch", "stalled") if found.parts.get(part)]
    return rows, bytes_all


def _scale(found: Composition) -> float:
    """The parts of a composition sum to the forward already."""
    whole = sum(found.parts.values())
    return found.forward_s / whole if whole else 1.0


def _classes(events: list[ev.Event], found: Composition
             ) -> dict[tuple[str, str], tuple[str, float | None, float | None]]:
    """(operator, module's role) -> class, bytes and FLOPs of all windows together."""
    kind = "kernel" if found.on_device else "op"
    sums: dict[tuple[str, str], tuple[str, float | None, float | None]] = {}
    for k in events:
        if not isinstance(k, ev.Kernel) or k.phase != found.phase or k.kind != kind:
            continue
        key = (k.name, role(k.module))
        _, moved, flops = sums.get(key, (k.cls, None, None))
        sums[key] = (k.cls, _plus(moved, k.bytes), _plus(flops, k.flops))
    return sums


def _plus(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else a + b


def _sum(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None
