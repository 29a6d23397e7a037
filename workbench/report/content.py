"""What the report says, as plain data for the template: no HTML is made here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench import analysis, charts
from workbench.analysis.grouping import Group
from workbench.analysis.metrics import SPECS
from workbench.errors import WorkbenchError
from workbench.panels import panels, plain
from workbench.report import texts
from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.store import Run

#: Kernel rows that a page shows; the bundle has them all.
_KERNELS = 14


def content(runs: Sequence[Run], title: str | None, baseline: Run | None) -> dict[str, Any]:
    """Everything the template names."""
    first = baseline or runs[0]
    ordered = [first, *(r for r in runs if r.id != first.id)]
    groups = analysis.group(ordered)
    base, others = groups[0], groups[1:]
    _name_apart(groups)
    falls = {g.id: analysis.waterfall_of(base, g) for g in others}
    drawn = figures(groups, base, falls)
    return {
        "title": title or _title(groups), "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "groups": groups, "base": base, "runs": ordered,
        "machine": _machine(first), "repeats": max(len(g.runs) for g in groups),
        "table": analysis.table(groups, base), "missing": _missing(groups),
        "verdicts": [_verdict(falls[g.id], base, g) for g in others],
        "figures": {k: f for k, f in drawn.items() if f["data"]},
        "blank": {k: f["layout"]["meta"]["empty"] for k, f in drawn.items() if not f["data"]},
        "kernels": [(g, _kernels(g)) for g in groups],
        "texts": texts.differences(base, others), "outputs": texts.outputs(base),
        "effective": [(g, _effective(g)) for g in groups],
        "differences": _differences(groups), "environment": _environment(first),
        "reproduce": [_reproduce(g) for g in groups],
        "answers": [(g, answers(g, base)) for g in groups],
        "definitions": [(s.label, s.help) for s in SPECS.values()],
    }


def _name_apart(groups: list[Group]) -> None:
    """Equal labels of different configurations get a number."""
    seen: dict[str, int] = {}
    for i, g in enumerate(groups):
        seen[g.label] = seen.get(g.label, 0) + 1
        if seen[g.label] > 1:
            groups[i] = Group(g.id, f"{g.label} ({seen[g.label]})", g.runs, g.metrics)


def _title(groups: list[Group]) -> str:
    names = [g.label for g in groups]
    return names[0] if len(names) == 1 else f"{names[0]} against " + ", ".join(names[1:])


def _verdict(fall: Any, base: Group, other: Group) -> dict[str, Any]:
    rows = [] if fall is None else [
        {"part": analysis.PARTS[p], "base": fall.base.parts.get(p, 0.0),
         "other": fall.other.parts.get(p, 0.0), "delta": d}
        for p, d in fall.deltas.items() if fall.base.parts.get(p) or fall.other.parts.get(p)]
    return {"label": other.label, "sentence": analysis.why(fall, base.label, other.label),
            "doubt": _doubt(base, other), "advice": analysis.advice(fall), "rows": rows,
            "figure": f"why-{other.id}",
            "fall": fall}


def _doubt(base: Group, other: Group) -> str:
    """A warning when the runs scatter by more than they differ."""
    a, b = base.metrics["tpot_s"], other.metrics["tpot_s"]
    if len(base.runs) < 2 or len(other.runs) < 2 or not a.value or not b.value:
        return ""
    scatter = math.hypot(a.se or 0.0, b.se or 0.0)
    if abs(a.value - b.value) >= scatter:
        return ""
    return (f"The runs of one configuration scatter by ± {1e3 * scatter:.3g} ms, which is more than "
            "this difference: repeat on a quiet machine before believing it.")


def figures(groups: list[Group], base: Group, falls: dict[str, Any]) -> dict[str, Any]:
    """Name -> figure. The curves are of each configuration's first run."""
    shown = {g.label: g.runs[0] for g in groups}
    events = {label: run.events for label, run in shown.items()}
    compared = analysis.compare(groups, base)
    found: dict[str, Any] = {"speed": charts.tokens_per_second(
        {label: analysis.tokens(e) for label, e in events.items()})}
    if len(groups) > 1:
        found["comparison"] = charts.comparison(compared)
        found["quality"] = charts.quality(compared)
        for g in groups[1:]:
            if falls[g.id] is not None:
                found[f"why-{g.id}"] = charts.waterfall(
                    falls[g.id].frame(), base.label, g.label, title=f"{base.label} to {g.label}")
    for g in groups:
        mine = events[g.label]
        found[f"kernels-{g.id}"] = charts.kernels_by_phase(analysis.kernels(mine))
        found[f"memory-{g.id}"] = charts.memory_by_tier(analysis.memory(mine))
        found[f"power-{g.id}"] = charts.power(analysis.power(mine), analysis.sensors(mine))
        drafts = analysis.drafts(mine)
        if not drafts.is_empty():
            found[f"acceptance-{g.id}"] = charts.acceptance(drafts)
    return found


def answers(g: Group, base: Group) -> list[dict[str, Any]]:
    """Every panel's answer about a configuration's first run; what has nothing to say is left out."""
    run = g.runs[0]
    against = base.runs[0] if base.id != g.id else None
    found = []
    for p in panels():
        said = p.content(run, against)
        if not said.empty:
            found.append({"panel": p, "names": [f"answer-{g.id}-{p.key}-{i}"
                                                for i in range(len(said.figures))],
                          "figures": list(said.figures), **_without_figures(plain(said))})
    return found


def _without_figures(said: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in said.items() if k != "figures"}


def _kernels(g: Group) -> list[dict[str, Any]]:
    frame = analysis.kernels(g.runs[0].events, by=("phase", "name", "cls", "device"))
    return list(frame.head(_KERNELS).rows(named=True))


def _missing(groups: list[Group]) -> list[tuple[str, str]]:
    """Metrics that no run has, with the reason."""
    found = []
    for name, spec in SPECS.items():
        metrics = [g.metrics[name] for g in groups]
        if all(m.value is None for m in metrics):
            reasons = dict.fromkeys(m.reason for m in metrics if m.reason)
            found.append((spec.label, "; ".join(reasons) or "not recorded"))
    return found


def _effective(g: Group) -> list[dict[str, Any]]:
    rows = [{"path": p, **e} for p, e in g.runs[0].effective.items()]
    return sorted(rows, key=lambda r: bool(r["honoured"]))


def _flat(run: Run) -> dict[str, Any]:
    """Settings by path; as written when this version cannot read them."""
    try:
        return run.requested.flat()
    except WorkbenchError:
        return {k: json.dumps(v) for k, v in run.settings_dict.items()}


def _differences(groups: list[Group]) -> list[tuple[str, list[str]]]:
    flats = [_flat(g.runs[0]) for g in groups]
    paths = dict.fromkeys(p for f in flats for p in f)
    return [(p, [str(f.get(p, "–")) for f in flats]) for p in paths
            if len({str(f.get(p, "–")) for f in flats}) > 1 and not p.startswith("quality")]


def _machine(run: Run) -> str:
    machine = run.environment.get("machine", {})
    parts = [machine.get("cpu", ""), f"{machine.get('cores', '?')} cores",
             _bytes(machine.get("memory_bytes"))]
    parts += [f"{g.get('name')} ({_bytes(g.get('memory_bytes'))})" for g in machine.get("gpus", [])]
    return ", ".join(p for p in parts if p) + ("" if machine.get("gpus") else ", no GPU")


def _bytes(value: Any) -> str:
    from workbench.units import format_bytes

    return format_bytes(float(value)) if isinstance(value, int | float) else ""


def _environment(run: Run) -> list[tuple[str, str]]:
    env = run.environment
    rows = [("machine", _machine(run)),
            ("system", str(env.get("machine", {}).get("system", "")))]
    rows += [(k, str(v)) for k, v in env.get("versions", {}).items()]
    if env.get("cpu_governor"):
        rows.append(("CPU frequency policy", str(env["cpu_governor"])))
    if env.get("load_average"):
        rows.append(("load average when it began", ", ".join(f"{x:.2f}" for x in env["load_average"])))
    ceilings = env.get("machine", {}).get("ceilings", {})
    rows += [(f"ceiling {k}", f"{v:.3g}") for k, v in ceilings.items()
             if isinstance(v, int | float)]
    return [(k, v) for k, v in rows if v]


def _reproduce(g: Group) -> dict[str, str]:
    from workbench.export import export
    from workbench.export.python import changes

    run = g.runs[0]
    try:
        settings: Settings = run.requested
    except WorkbenchError as error:
        return {"label": g.label, "python": f"# {error}", "cli": f"# {error}", "yaml": ""}
    return {"label": g.label, "python": export(settings, "python", prompt=run.prompt),
            "cli": _command(changes(settings), run.prompt), "yaml": settings.to_yaml()}


def _command(changed: dict[str, Any], prompt: str) -> str:
    import shlex

    words = ["workbench", "run", "--prompt", prompt]
    model = changed.pop("model.source", None)
    if model is not None:
        words += ["--model", str(model)]
    for path, value in changed.items():
        words += ["--set", f"{path}={value}"]
    return shlex.join(words)
