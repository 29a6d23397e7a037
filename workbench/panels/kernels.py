"""What runs on the processor: kernels by phase, layer and class, what moved, what looking cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.analysis import frames
from workbench.analysis.kernel_stream import attributed, by_layer, movers, overhead
from workbench.events import KernelWindow, Note
from workbench.panels.base import Action, Cell, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run

_PHASES = ("decode", "verify", "prefill", "draft")
_MOST_KERNELS = 40
#: Bytes of one row and one slice in a run's record, as in the engine.
_ROW_BYTES, _SLICES_BYTES = 330, 150 * 1500


def build(run: Run, baseline: Run | None = None) -> Content:
    """Empty with the reason the capture gave, or that the run was too short for its budget."""
    from workbench import charts
    from workbench.charts import kernel_stream as stream

    events = list(run.events)
    windows = [e for e in events if isinstance(e, KernelWindow)]
    kernels = frames.kernels(events)
    if kernels.is_empty():
        reasons = list(dict.fromkeys(w.reason for w in windows if w.reason))
        return Content(empty="No kernels were captured: " + ("; ".join(reasons) or _why_none(run)),
                       actions=_more(run))
    before = list(baseline.events) if baseline is not None else None
    moved = movers(events, before)
    layers = by_layer(events)
    phases = [p for p in _PHASES if any(k == p for k, _ in layers)]
    figures = [charts.kernels_by_phase(kernels), *(stream.by_layer(layers, p) for p in phases[:2])]
    if baseline is not None:
        figures.append(stream.movers(moved))
    rows: list[list[Cell]] = [
        [r["phase"], r["name"], r["cls"], r["calls"], 1e3 * r["total_s"], 1e6 * r["mean_s"],
         100 * r["share"], None if r["floor_fraction"] is None else 100 * r["floor_fraction"]]
        for r in kernels.head(_MOST_KERNELS).rows(named=True)]
    table = Table("Kernels in the windows", ["phase", "kernel", "class", "calls", "ms", "mean µs", "%",
                                             "% of floor"], rows)
    return Content(sentences=_sentences(events, windows, baseline), figures=figures,
                   tables=[_movers(moved, baseline), table, _windows(windows)], actions=_deep(run, windows))


def _why_none(run: Run) -> str:
    preset = run.requested.telemetry.preset
    if preset == "off":
        return "telemetry is off."
    return (f"the run was too short for what the {preset} preset may cost. More tokens, or "
            "telemetry.preset=kernels.")


def _more(run: Run) -> list[Action]:
    return [] if run.requested.telemetry.preset in ("kernels", "deep") else [
        Action("Look at more forwards", {"telemetry.preset": "kernels"},
               "costs up to a tenth of tok/s, and says how much")]


def _sentences(events: list, windows: list[KernelWindow], baseline: Run | None) -> list[str]:
    cost, share = overhead(events), attributed(events)
    said = [f"{cost.windows} windows of {cost.forwards} forwards were looked at; by the capture's own meter "
            f"that took {1e3 * cost.seconds:.3g} ms, {100 * cost.share:.2g} % of the run."]
    if share is not None:
        gap = sum(w.gap_s or 0.0 for w in windows) / (sum(w.wall_s or 0.0 for w in windows) or 1.0)
        said.append(f"{100 * share:.1f} % of the windows' time is in operators of a known class or in "
                    f"gaps between them ({100 * gap:.0f} % gaps).")
    said += [e.text for e in events if isinstance(e, Note) and e.text.startswith(("Deep capture",
                                                                                   "Kernel capture"))]
    if baseline is not None:
        said.append(f"Movers are per forward, against {baseline.label}; windows are under the profiler, "
                    "so small operators look longer than they are.")
    return said


def _movers(moved: list, baseline: Run | None) -> Table:
    title = "Longest" if baseline is None else "Top movers"
    rows: list[list[Cell]] = [
        [m.phase, m.name, m.module, m.calls, 1e3 * m.seconds,
         None if m.before is None else 1e3 * m.before,
         None if m.before is None else 1e3 * m.change] for m in moved]
    return Table(title, ["phase", "kernel", "module", "calls per forward", "ms per forward",
                         "baseline ms", "change ms"], rows)


def _windows(windows: list[KernelWindow]) -> Table:
    rows: list[list[Cell]] = [
        [w.window, w.phase, w.start_s, w.rows, None if w.wall_s is None else 1e3 * w.wall_s,
         None if w.gap_s is None else 1e3 * w.gap_s, w.host_events + w.device_events,
         1e3 * w.overhead_s] for w in windows[-20:]]
    return Table("Last windows", ["window", "phase", "at s", "rows", "forward ms", "gaps ms", "events",
                                  "cost ms"], rows)


def _deep(run: Run, windows: list[KernelWindow]) -> list[Action]:
    """Every forward, with its size said before: rows as in the last window, slices at their cap."""
    if run.requested.telemetry.preset == "deep" or not windows:
        return []
    forwards = min(64, run.requested.limits.max_new_tokens)
    events = windows[-1].host_events + windows[-1].device_events
    size = forwards * (_ROW_BYTES * events * 0.5 + min(_SLICES_BYTES, 150 * events)) / 1e6
    cap = run.requested.telemetry.cap_mb
    return [Action("Deep capture", {"telemetry.preset": "deep"},
                   f"every forward up to {forwards}: about {min(size, cap):.0f} MB of records (estimated), "
                   f"at most {cap:g} MB; tok/s falls to about half")]


PANEL = Panel(key="kernels", title="Kernels", question="What runs, in which phase and layer, and what moved?",
              build=build, order=20)
