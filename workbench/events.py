"""Everything that happens, as one tagged union of frozen, flat, typed records.

An event's fields are scalars (or None) so that a run is one columnar table and one Arrow file.
Times: ``t_s`` and every ``*_s`` mark are seconds since the run began, on the engine's monotonic clock;
durations end in ``_s`` too and say so. Bytes are bytes, watts watts, joules joules.
Phases: ``load prefill draft verify decode evaluate idle``. Tiers: ``gpu ram disk``.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base record. ``run`` is the run's id, empty for what belongs to the engine alone."""

    t_s: float = 0.0
    run: str = ""


class EngineState(Event, frozen=True, kw_only=True, tag="state"):
    """The engine changed state: ``starting ready loading running evaluating unloaded dead``."""

    state: str
    detail: str = ""


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """A long operation moved. ``total`` 0 means unknown."""

    what: str
    done: float
    total: float = 0.0
    detail: str = ""


class Note(Event, frozen=True, kw_only=True, tag="note"):
    """One sentence for the user. ``level``: ``info warning error``."""

    text: str
    level: str = "info"


class RunStarted(Event, frozen=True, kw_only=True, tag="run_started"):
    """Model loaded, prompt tokenized, clock at zero."""

    prompt_tokens: int
    sequences: int = 1
    started_unix_s: float = 0.0


class RunEnded(Event, frozen=True, kw_only=True, tag="run_ended"):
    """The last event of a run. ``status``: ``done cancelled failed``."""

    status: str
    reason: str = ""
    new_tokens: int = 0


class Effective(Event, frozen=True, kw_only=True, tag="effective"):
    """What really ran for one setting, read back from the runtime. ``reason`` when it differs."""

    path: str
    requested: str
    effective: str
    honoured: bool = True
    reason: str = ""


class Phase(Event, frozen=True, kw_only=True, tag="phase"):
    """One interval of model work. ``rows``: token positions computed; ``step``: decoding step."""

    phase: str
    start_s: float
    end_s: float
    step: int = 0
    rows: int = 0
    tokens: int = 0


class Token(Event, frozen=True, kw_only=True, tag="token"):
    """One emitted token, stamped when it was known to the engine.

    ``source``: ``plain`` (target alone), ``draft`` (drafted and accepted), ``bonus`` (target's own
    token at the end of a verification). ``text`` is the text this token completed (may be empty
    while a multi-byte character is open)."""

    index: int
    id: int
    text: str
    source: str = "plain"
    step: int = 0
    sequence: int = 0


class Commit(Event, frozen=True, kw_only=True, tag="commit"):
    """A masked-diffusion model fixed one place of its canvas. ``step``: the forward, from 1."""

    step: int
    place: int
    id: int
    text: str
    confidence: float
    canvas: int
    sequence: int = 0


class Draft(Event, frozen=True, kw_only=True, tag="draft"):
    """The outcome of one verification: ``drafted`` proposed, ``accepted`` kept, ``emitted`` in all.

    ``proposed``: the drafted tokens' text, joined by U+241F, for the ribbon. ``parents``: for each of
    them the place of the one before it, -1 for the root, joined by commas; empty for a chain. ``kept``:
    places of those that were kept, in order; empty where they are the first ``accepted`` ones."""

    step: int
    drafted: int
    accepted: int
    emitted: int
    rows: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    sequence: int = 0
    proposed: str = ""
    parents: str = ""
    kept: str = ""


class KernelWindow(Event, frozen=True, kw_only=True, tag="kernel_window"):
    """One bounded capture. ``overhead_s`` is the time that starting, stopping and reading cost.

    ``wall_s``: the forward under the profiler, from its first instant to its last, and ``gap_s`` the
    part of it in which no operator ran (Python and launching); None where nobody measured them.
    ``dispatch_s``: host seconds that one tiny operator takes here, with the profiler off (0: one call made
    all operators).
    ``peak_bytes``: the most that the forward's activations held at once (the first window of a phase)."""

    window: int
    start_s: float
    end_s: float
    preset: str
    steps: int = 0
    overhead_s: float = 0.0
    device_events: int = 0
    host_events: int = 0
    reason: str = ""
    phase: str = ""
    rows: int = 0
    wall_s: float | None = None
    gap_s: float | None = None
    dispatch_s: float | None = None
    peak_bytes: int | None = None


class Kernel(Event, frozen=True, kw_only=True, tag="kernel"):
    """One row of a window's kernel table, aggregated in the engine.

    ``kind``: ``kernel`` (device) or ``op`` (CPU operator, self time). ``layer`` -1: outside layers.
    ``cls``: ``matmul attention dequant norm activation elementwise copy sampling embedding shape
    reduction other``.
    ``total_s mean_s min_s max_s`` are durations; ``floor_s`` the least time its bytes or FLOPs can
    take on this machine's measured ceilings, None when unknown. ``first_token last_token``: the
    tokens the window spans. ``module``: dotted path of the innermost module that ran it, where known;
    ``operator``: the host operator that launched a device kernel."""

    window: int
    phase: str
    layer: int
    name: str
    kind: str
    cls: str
    device: str
    calls: int
    total_s: float
    mean_s: float
    min_s: float
    max_s: float
    bytes: int | None = None
    flops: int | None = None
    floor_s: float | None = None
    first_token: int = 0
    last_token: int = 0
    module: str = ""
    operator: str = ""


class Slice(Event, frozen=True, kw_only=True, tag="slice"):
    """One timeline slice of a capture (bounded number per window), for the trace viewer."""

    window: int
    name: str
    start_s: float
    duration_s: float
    track: str
    phase: str = ""
    layer: int = -1


class Transfer(Event, frozen=True, kw_only=True, tag="transfer"):
    """One copy between tiers. ``waited_s``: how long the computation stood still for it."""

    src: str
    dst: str
    bytes: int
    start_s: float
    end_s: float
    what: str = "weights"
    layer: int = -1
    waited_s: float = 0.0


class Memory(Event, frozen=True, kw_only=True, tag="memory"):
    """Bytes held on one tier, by use. ``total_bytes`` is read from the allocator or the OS;
    the parts are what the runtime allocated. ``limit_bytes``: the tier's capacity."""

    tier: str
    total_bytes: int
    weights_bytes: int = 0
    kv_bytes: int = 0
    activations_bytes: int = 0
    draft_bytes: int = 0
    workspace_bytes: int = 0
    limit_bytes: int = 0
    source: str = ""


class Power(Event, frozen=True, kw_only=True, tag="power"):
    """One reading of one sensor. Fields that a sensor lacks are None, never filled in.

    ``quality``: ``measured`` or ``estimated``; ``source`` names the sensor or the model. ``t_s`` is
    the middle of the query and ``took_s`` its duration, so the reading is from ``t_s`` ± half of it.
    ``others``: share of the device's work since the last reading that other processes did (0..1).
    ``low_w high_w``: the range of an estimate."""

    device: str
    source: str
    quality: str = "measured"
    instant_w: float | None = None
    average_w: float | None = None
    energy_j: float | None = None
    utilization: float | None = None
    clock_hz: float | None = None
    temperature_c: float | None = None
    throttled: str = ""
    took_s: float | None = None
    limit_w: float | None = None
    others: float | None = None
    low_w: float | None = None
    high_w: float | None = None


class SensorStatus(Event, frozen=True, kw_only=True, tag="sensor"):
    """What a power source can and cannot do here. ``available`` False carries the reason.

    ``period_s instant_period_s average_period_s``: seconds between changes of the counter and of the
    two power fields, found by watching them; ``window_s``: what the averaged field averages over.
    ``idle_w idle_se_w``: power of the device without work and its standard error; ``idle_basis``:
    when and how that was measured."""

    device: str
    source: str
    available: bool
    quality: str = "measured"
    period_s: float | None = None
    reason: str = ""
    instant_period_s: float | None = None
    average_period_s: float | None = None
    window_s: float | None = None
    idle_w: float | None = None
    idle_se_w: float | None = None
    idle_basis: str = ""


class Quality(Event, frozen=True, kw_only=True, tag="quality"):
    """A quality figure, possibly partial (``done`` False while it streams).

    ``metric``: ``perplexity kl_mean kl_median kl_p99 top1 accuracy``, or a task of lm-eval and its metric
    (``arc_easy acc``; ``tokens`` are documents then). ``se``: standard error.
    ``against``: the reference's description for KL and agreement."""

    metric: str
    value: float
    se: float | None = None
    tokens: int = 0
    text: str = ""
    against: str = ""
    done: bool = True


class Metric(Event, frozen=True, kw_only=True, tag="metric"):
    """One summary figure of a run, computed by ``analysis.metrics`` when it ends. ``se``: standard
    error, where there is one. ``value`` None carries the reason. ``badges``: what a reader must know
    before believing it, separated by `` · `` (throttled, disturbed, too short for the sensor)."""

    name: str
    value: float | None
    unit: str = ""
    quality: str = "measured"
    reason: str = ""
    se: float | None = None
    badges: str = ""


class Overhead(Event, frozen=True, kw_only=True, tag="overhead"):
    """One stage of a request, measured: the stages of a request sum to the time its user waited.

    ``where``: ``client wire engine``. ``seconds`` is the stage's own time, without the stages inside
    it; ``calls``: how often it ran; ``model`` True for what is inference itself."""

    what: str
    where: str
    seconds: float
    calls: int = 1
    model: bool = False


class Interference(Event, frozen=True, kw_only=True, tag="interference"):
    """What neighbours took from this process between ``start_s`` and ``end_s``; None: not readable.

    ``others``: share of this machine's CPU that other processes used (0..1). ``steal``: share that
    the hypervisor gave to other machines. ``waited``: share of the window in which the thread of ours
    that sets the pace stood ready without a core, because of others. ``involuntary_per_s``: times per
    second that a thread of ours was put aside. ``pressure``: share of the time in
    which somebody here waited for a core (PSI).
    ``slowdown``: estimated factor by which the work takes longer than alone."""

    start_s: float
    end_s: float
    others: float | None = None
    steal: float | None = None
    waited: float | None = None
    involuntary_per_s: float | None = None
    pressure: float | None = None
    slowdown: float | None = None


class StepTime(Event, frozen=True, kw_only=True, tag="step_time"):
    """Forwards of one phase between ``start_s`` and ``end_s``, those under a profiler left out.

    ``forward_s``: seconds inside them; ``forwards``: how many; ``rows``: token positions computed;
    ``middle_s``: the median forward."""

    phase: str
    start_s: float
    end_s: float
    forwards: int
    forward_s: float
    rows: int = 0
    middle_s: float | None = None


class HostStack(Event, frozen=True, kw_only=True, tag="host_stack"):
    """Where the loop's thread was, by looking at it now and then while the run went on.

    ``what``: ``forward stalled sampling detokenizer drafting waiting telemetry host`` (stalled: inside a
    forward, in a function that computes nothing of it); ``where``: the
    function, as ``file:name:line``; ``samples`` of ``of`` looks found it there. ``between`` True:
    outside a forward."""

    what: str
    where: str
    samples: int
    of: int
    between: bool = False


class MemoryFailure(Event, frozen=True, kw_only=True, tag="memory_failure"):
    """What was held when memory ran out, one record per tier.

    ``asked_bytes``: the allocation that was refused, None when the message does not say;
    ``limit_bytes`` and ``limit``: the smallest limit that applies and its name; ``doing``: the phase;
    ``bare_bytes``: what the process held before any model was loaded."""

    tier: str
    held_bytes: int
    asked_bytes: int | None = None
    limit_bytes: int | None = None
    limit: str = ""
    free_bytes: int | None = None
    bare_bytes: int | None = None
    doing: str = ""


AnyEvent = (
    EngineState | Progress | Note | RunStarted | RunEnded | Effective | Phase | Token | Commit | Draft
    | KernelWindow | Kernel | Slice | Transfer | Memory | Power | SensorStatus | Quality | Metric
    | Overhead | Interference | StepTime | HostStack | MemoryFailure
)

TYPES: dict[str, type[Event]] = {
    t.__struct_config__.tag: t  # type: ignore[misc]
    for t in (
        EngineState, Progress, Note, RunStarted, RunEnded, Effective, Phase, Token, Commit, Draft,
        KernelWindow, Kernel, Slice, Transfer, Memory, Power, SensorStatus, Quality, Metric,
        Overhead, Interference, StepTime, HostStack, MemoryFailure,
    )
}


def to_dict(event: Event) -> dict[str, Any]:
    """A flat dict with ``type``; ``from_dict`` inverts it exactly."""
    return msgspec.to_builtins(event)


def from_dict(data: dict[str, Any]) -> Event:
    """Inverse of :func:`to_dict`; ignores columns that belong to other types (None-valued)."""
    cls = TYPES[data["type"]]
    fields = {f.name: f for f in msgspec.structs.fields(cls)}
    kept = {k: v for k, v in data.items() if k in fields and v is not None}
    return msgspec.convert({"type": data["type"], **kept}, cls)
