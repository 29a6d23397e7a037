"""A run as a Chrome trace (JSON object format), which Perfetto and chrome://tracing open.

One process per group (run, kernels, transfers), one named thread per track (phases, tokens, drafts, places
that a diffusion model fixed, captures, disturbed stretches, notes), counters for memory per tier, power per
sensor, drafted tokens kept and tokens per second. Times are microseconds since the run's clock began.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from workbench import events as ev
from workbench.analysis.frames import MEMORY_PARTS
from workbench.analysis.rates import rolling_rate

RUN, KERNELS, TRANSFERS, COUNTERS = 1, 2, 3, 4
_PROCESSES = {RUN: "run", KERNELS: "kernels", TRANSFERS: "transfers", COUNTERS: "counters"}


class _Tracks:
    """Numbers threads in order of appearance and names them once."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, str], int] = {}

    def __call__(self, pid: int, name: str) -> dict[str, int]:
        tid = self.known.setdefault((pid, name), len(self.known) + 1)
        return {"pid": pid, "tid": tid}

    def metadata(self) -> list[dict[str, Any]]:
        used = {pid for pid, _ in self.known} | {COUNTERS}
        rows: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": p, "args": {"name": n}}
            for p, n in _PROCESSES.items() if p in used]
        rows += [{"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}
                 for (pid, name), tid in self.known.items()]
        return rows


def chrome_trace(events: Iterable[ev.Event], title: str = "") -> dict[str, Any]:
    """``{"traceEvents": [...], "displayTimeUnit": "ms", "otherData": {...}}``."""
    events = list(events)
    track = _Tracks()
    rows: list[dict[str, Any]] = []
    for e in events:
        rows += _rows(e, track)
    rows += [_counter("tokens per second", t, {"tok/s": rate})
             for t, rate in rolling_rate(events)]
    rows.sort(key=lambda r: float(r["ts"]))
    return {"traceEvents": track.metadata() + rows, "displayTimeUnit": "ms",
            "otherData": {"title": title, "producer": "Inference Workbench"}}


def _rows(e: ev.Event, track: _Tracks) -> list[dict[str, Any]]:
    match e:
        case ev.Phase():
            return [_slice(e.phase, e.start_s, e.end_s, track(RUN, "phases"), "phase",
                           {"step": e.step, "rows": e.rows, "tokens": e.tokens})]
        case ev.Token():
            where = track(RUN, "tokens" if e.sequence == 0 else f"tokens of sequence {e.sequence}")
            return [{"ph": "i", "s": "t", "name": e.text or f"<{e.id}>", "cat": "token",
                     "ts": _us(e.t_s), **where,
                     "args": {"index": e.index, "id": e.id, "source": e.source, "step": e.step}}]
        case ev.Draft():
            start = e.t_s - e.draft_s - e.verify_s
            return [_slice(f"{e.accepted}/{e.drafted} accepted", start, e.t_s, track(RUN, "drafts"),
                           "draft", {"step": e.step, "emitted": e.emitted, "rows": e.rows,
                                     "sequence": e.sequence, "draft_s": e.draft_s,
                                     "verify_s": e.verify_s, "proposed": e.proposed}),
                    _counter("drafted tokens", e.t_s, {"kept": e.accepted,
                                                       "rejected": e.drafted - e.accepted})]
        case ev.Commit():
            return [{"ph": "i", "s": "t", "name": e.text or f"<{e.id}>", "cat": "commit",
                     "ts": _us(e.t_s), **track(RUN, "places fixed"),
                     "args": {"step": e.step, "place": e.place, "confidence": e.confidence,
                              "sequence": e.sequence}}]
        case ev.Interference():
            if not (e.slowdown and e.slowdown > 1.05):
                return []
            return [_slice(f"neighbours: x{e.slowdown:.2f} (estimated)", e.start_s, e.end_s,
                           track(RUN, "disturbed"), "interference",
                           {"others": e.others, "steal": e.steal, "waited": e.waited})]
        case ev.MemoryFailure():
            return [{"ph": "i", "s": "g", "name": f"out of memory on {e.tier}", "cat": "memory",
                     "ts": _us(e.t_s), **track(RUN, "notes"),
                     "args": {"held_bytes": e.held_bytes, "asked_bytes": e.asked_bytes,
                              "doing": e.doing}}]
        case ev.Slice():
            return [_slice(e.name, e.start_s, e.start_s + e.duration_s, track(KERNELS, e.track),
                           "kernel", {"phase": e.phase, "layer": e.layer, "window": e.window})]
        case ev.KernelWindow():
            return [_slice(f"capture {e.window} ({e.preset})", e.start_s, e.end_s,
                           track(KERNELS, "capture windows"), "capture",
                           {"steps": e.steps, "overhead_s": e.overhead_s, "reason": e.reason})]
        case ev.Transfer():
            where = track(TRANSFERS, f"{e.src} to {e.dst}")
            return [_slice(f"{e.what} layer {e.layer}" if e.layer >= 0 else e.what, e.start_s,
                           e.end_s, where, "transfer", {"bytes": e.bytes, "waited_s": e.waited_s})]
        case ev.Memory():
            known = {p.removesuffix("_bytes"): getattr(e, p) for p in MEMORY_PARTS}
            known["other"] = max(0, e.total_bytes - sum(known.values()))
            return [_counter(f"memory {e.tier} (bytes)", e.t_s, known)]
        case ev.Power():
            watts = {k: v for k, v in (("instant", e.instant_w), ("average", e.average_w))
                     if v is not None}
            name = f"power {e.device} (W, {e.quality})"
            return [_counter(name, e.t_s, watts)] if watts else []
        case ev.Note():
            return [{"ph": "i", "s": "p", "name": e.text, "cat": "note", "ts": _us(e.t_s),
                     **track(RUN, "notes"), "args": {"level": e.level}}]
    return []


def _us(seconds: float) -> float:
    return round(max(0.0, seconds) * 1e6, 3)


def _slice(name: str, start_s: float, end_s: float, where: dict[str, int], category: str,
           args: dict[str, Any]) -> dict[str, Any]:
    start = _us(start_s)
    return {"ph": "X", "name": name, "cat": category, "ts": start,
            "dur": max(0.0, round(_us(end_s) - start, 3)), **where, "args": args}


def _counter(name: str, t_s: float, values: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "C", "name": name, "ts": _us(t_s), "pid": COUNTERS, "tid": 0, "args": values}
