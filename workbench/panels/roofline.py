"""How far each kernel is from this machine's limit, and what that costs per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.analysis.roofline import Ceilings, Point, ceilings_of, points
from workbench.analysis.waterfall import breakdown
from workbench.events import Kernel
from workbench.panels.base import Action, Cell, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run

_MOST = 16
_DECODING = ("verify", "decode")


def build(run: Run, baseline: Run | None = None) -> Content:
    """Prefill and decode apart: they have other limits."""
    events = list(run.events)
    machine = run.environment.get("machine") or {}
    on_gpu = any(isinstance(e, Kernel) and e.kind == "kernel" for e in events)
    dtype = "fp32" if run.requested.weights.name() == "fp32" else "bf16"
    ceilings = ceilings_of(machine, "gpu" if on_gpu else "cpu", dtype)
    found = points(events, ceilings)
    if not found:
        return Content(
            empty="No kernel window of this run has operators whose bytes and FLOPs are known. The "
                  "light preset needs about a hundred tokens; telemetry.preset=kernels looks sooner.",
            actions=[Action("Look at more forwards", {"telemetry.preset": "kernels"},
                            "costs up to a tenth of tok/s, and says how much")])
    from workbench.charts import roofline as charts

    divided = breakdown(events)
    per_token = 1 / divided.tokens_per_forward if divided and divided.tokens_per_forward else 1.0
    decode = [p for p in found if p.phase in _DECODING]
    prefill = [p for p in found if p.phase == "prefill"]
    layers = points(events, ceilings, by_layer=True)
    figures = [charts.roofline(part, ceilings, f"Roofline, {name}")
               for name, part in (("decode", decode), ("prefill", prefill)) if part]
    figures += [charts.headroom(decode or found, per_token), charts.by_layer(layers)]
    return Content(sentences=_sentences(ceilings, decode, prefill, per_token), figures=figures,
                   tables=[_table("Decode: time lost above the floor", decode, per_token),
                           _table("Prefill: time lost above the floor", prefill, None),
                           _layer_table(layers)])


def _sentences(ceilings: Ceilings, decode: list[Point], prefill: list[Point], per_token: float) -> list[str]:
    if ceilings.ridge is None:
        return ["This machine's ceilings were not measured when this run was recorded, so there are no "
                "floors: workbench doctor --measure takes a few seconds, then run again."]
    said = [f"Measured ceilings: {(ceilings.bytes_per_s or 0) / 1e9:.3g} GB/s read and "
            f"{(ceilings.flops_per_s or 0) / 1e9:,.4g} GFLOP/s; below {ceilings.ridge:.3g} FLOP per byte "
            "memory is the limit."]
    for name, part, scale, unit in (("Decode", decode, per_token, "ms per token"),
                                    ("Prefill", prefill, 1.0, "ms")):
        seconds = sum(p.seconds for p in part)
        if not seconds:
            continue
        floor = sum(p.floor_s or 0.0 for p in part)
        said.append(f"{name}: kernels of known work take {1e3 * scale * seconds:.3g} {unit} and could "
                    f"take {1e3 * scale * floor:.3g}: {100 * floor / seconds:.0f} % of the ceiling.")
        worst = max(part, key=lambda p: p.lost_s or 0.0)
        if worst.lost_s:
            said.append(f"Most is lost in {worst.name}{f' of {worst.module}' if worst.module else ''}: "
                        f"{1e3 * scale * worst.lost_s:.3g} {unit}.")
    if any((p.share_of_ceiling or 0) > 1.05 for p in decode + prefill):
        said.append("A kernel above its ceiling works from the processor's caches, which read faster "
                    "than memory: small models fit there.")
    return said


def _table(title: str, part: list[Point], per_token: float | None) -> Table:
    unit = "ms per forward" if per_token is None else "ms per token"
    scale = 1e3 * (1.0 if per_token is None else per_token)
    rows: list[list[Cell]] = [
        [p.name, p.module, p.calls, scale * p.seconds,
         None if p.floor_s is None else scale * p.floor_s,
         None if p.lost_s is None else scale * p.lost_s,
         None if p.share_of_ceiling is None else 100 * p.share_of_ceiling, p.intensity,
         p.moved / p.seconds / 1e9 if p.seconds else None, p.rate / 1e9]
        for p in sorted(part, key=lambda p: -(p.lost_s or p.seconds))[:_MOST]]
    return Table(title, ["kernel", "module", "calls per forward", unit, "floor", "lost", "% of ceiling",
                         "FLOP per byte", "GB/s", "GFLOP/s"], rows)


def _layer_table(layers: list[Point]) -> Table:
    rows: list[list[Cell]] = [
        [p.phase, p.layer, 1e3 * p.seconds, None if p.floor_s is None else 1e3 * p.floor_s,
         None if p.share_of_ceiling is None else 100 * p.share_of_ceiling]
        for p in sorted(layers, key=lambda p: (p.phase, p.layer)) if p.layer >= 0]
    return Table("By layer", ["phase", "layer", "ms per forward", "floor", "% of ceiling"], rows)


PANEL = Panel(key="roofline", title="Roofline", question="How far from the machine's limit is each kernel?",
              build=build, order=30)
