"""Where does quantization hurt? The error of every matrix, the best mixture, one click to raise a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.panels.base import Action, Cell, Content, Panel, Table
from workbench.sensitivity import errors, plan
from workbench.sensitivity.errors import Cell as Error
from workbench.sensitivity.errors import ErrorMap

if TYPE_CHECKING:
    from workbench.store import Run

_WORST, _ACTIONS = 10, 3
#: What a whole layer is raised to, and the picture's row for it.
_TOP, _WHOLE = "int8", "whole layer"


def build(run: Run, baseline: Run | None = None) -> Content:
    """From the newest error map of the run's model; without one, how to make it."""
    found = errors.newest(run.requested)
    if found is None or not found.cells:
        return Content(
            empty="The error of this model's matrices was not measured yet. `workbench plan MODEL` does it, "
                  "and so does weights=mixed when it loads the model.",
            actions=[] if run.requested.weights.name() == "mixed" else [Action(
                "Measure every matrix and mix precisions", {"weights": "mixed"},
                help="once per model; the map stays in the cache")])
    from workbench.charts import error_map as charts

    scheme = _scheme(run, found)
    cells = found.of(scheme)
    measured = cells[0].kl is not None
    offers = _offers(run, found, scheme)
    places = {place: i for i, place in enumerate(offers)}
    hover = {(c.layer, c.part): f"{_hover(c, chr(10))}\nClick: {offers[c.layer, c.part].label}"
             for c in cells}
    figures = []
    if measured:
        whole = _by_layer(found, scheme)
        hover |= {(i, _WHOLE): f"layer {i}: KL {kl:.2e} nats\nthe sum of its matrices (estimated)\n"
                               f"Click: {offers[i, _WHOLE].label}" for i, kl in whole.items()}
        values = {(c.layer, c.part): c.kl or 0.0 for c in cells} | {(i, _WHOLE): k for i, k in whole.items()}
        figures.append(charts.heat(found.layers, (*found.parts, _WHOLE), values, hover,
                                   f"What each costs alone as {scheme}; click to raise",
                                   "KL, nats per token", places))
    figures.append(charts.heat(found.layers, found.parts, {(c.layer, c.part): c.output_error for c in cells},
                               hover, f"Squared error of each output as {scheme}", "relative",
                               places))
    if measured:
        uniform = {m: plan.uniform(found, m) for m in found.methods}
        figures.append(charts.ladder(plan.ladder(found), uniform))
    return Content(sentences=_sentences(found, scheme), figures=figures, tables=[_worst(found, scheme)],
                   actions=_actions(run, found, scheme), picks=list(offers.values()))


def _scheme(run: Run, found: ErrorMap) -> str:
    """The run's own scheme where the map has it, else the coarsest one of the map."""
    own = str(run.requested.weights)
    if own in found.methods:
        return own
    return max(found.methods, key=lambda m: sum(c.output_error for c in found.of(m)))


def _hover(cell: Error, between: str = " ") -> str:
    kl = "" if cell.kl is None else f"KL {cell.kl:.2e} nats{_error(cell)};{between}"
    return (f"layer {cell.layer} {cell.part} ({cell.rows} x {cell.columns}):{between}{kl}output error "
            f"{cell.output_error:.2e}, weight error {cell.weight_error:.2e}")


def _error(cell: Error) -> str:
    return "" if cell.kl_se is None else f" ± {cell.kl_se:.1e}"


def _sentences(found: ErrorMap, scheme: str) -> list[str]:
    cells, worst = found.of(scheme), found.worst(scheme)
    about = found.about
    said = []
    if worst[0].kl is not None:
        whole = sum(c.kl or 0.0 for c in cells)
        few = sum(c.kl or 0.0 for c in worst[:3])
        if whole > 0:
            said.append(f"With {scheme}, {worst[0].module} costs most: {worst[0].kl:.2e} nats per token "
                        f"alone. The worst three of {len(cells)} matrices make up {100 * few / whole:.0f} % "
                        f"of the sum of {whole:.2e}.")
        by_part: dict[str, float] = {}
        for c in cells:
            by_part[c.part] = by_part.get(c.part, 0.0) + (c.kl or 0.0)
        part = max(by_part, key=lambda p: by_part[p])
        if whole > 0:
            said.append(f"By kind, {part} has the largest share: {100 * by_part[part] / whole:.0f} %.")
    else:
        said.append(f"With {scheme}, the output of {worst[0].module} is furthest off: "
                    f"{worst[0].output_error:.2e} of its own square.")
    said.append(f"Measured on {about.get('tokens')} tokens of {about.get('text')} calibration text in "
                f"{about.get('dtype')}, one matrix changed at a time. Sums over matrices are estimates "
                "of the whole model's KL, good while errors are small.")
    return said


def _worst(found: ErrorMap, scheme: str) -> Table:
    rows: list[list[Cell]] = [
        [c.module, c.kl, c.kl_se, c.output_error, c.weight_error, c.nbytes,
         8 * c.nbytes / (c.rows * c.columns)]
        for c in found.worst(scheme, _WORST)]
    return Table(f"Worst matrices as {scheme}", ["matrix", "KL (nats)", "±", "output error", "weight error",
                                                 "bytes", "bits per weight"], rows)


def _actions(run: Run, found: ErrorMap, scheme: str) -> list[Action]:
    """The worst matrices one step up, their layer all the way up, and the best mixture."""
    offers = _offers(run, found, scheme)
    actions = [offers[c.layer, c.part] for c in found.worst(scheme, _ACTIONS)]
    worst = _by_layer(found, scheme)
    actions.append(offers[max(worst, key=lambda i: worst[i]), _WHOLE])
    if run.requested.weights.name() != "mixed" and found.cells[0].kl is not None:
        bits = plan.uniform(found, scheme)[0]
        actions.append(Action(f"The best mixture of the same size ({bits:.3g} bits per weight)",
                              {"weights": "mixed", "weights.bits": round(bits + 5e-3, 2)},
                              help="chosen exactly from the error map"))
    return actions


def _offers(run: Run, found: ErrorMap, scheme: str) -> dict[tuple[int, str], Action]:
    """(layer, kind of matrix, or _WHOLE for all of them) -> it stored better, the rest as it is."""
    own, name = run.requested.weights, run.requested.weights.name()
    base = {"weights": "mixed"}
    if name == "mixed":
        base = {f"weights.{k}": v for k, v in own.to_dict().items() if k in ("plan", "bits", "methods")}
    elif str(own) in found.methods:
        base["weights.plan"] = plan.short(own)  # type: ignore[arg-type]
    before = str(getattr(own, "raised", "")).split()
    now = dict(p.rpartition(":")[::2] for p in before)

    def offer(label: str, key: str, better: str, why: str) -> Action:
        kept = [p for p in before if p.rpartition(":")[0] != key]
        return Action(f"Store {label} as {better}",
                      {**base, "weights.raised": " ".join([*kept, f"{key}:{better}"])}, help=why)

    offers = {}
    for cell in found.of(scheme):
        key = _tail(cell.module)
        better = _step_up(found, cell, now.get(key) or now.get(f"layers.{cell.layer}"))
        offers[cell.layer, cell.part] = offer(key, key, better, _hover(cell))
    for layer, cost in _by_layer(found, scheme).items():
        key = f"layers.{layer}"
        better = plan.EXACT if scheme == _TOP or now.get(key) == _TOP else _TOP
        offers[layer, _WHOLE] = offer(f"all of layer {layer}", key, better,
                                      f"its matrices cost {cost:.2e} together (estimated)")
    return offers


def _tail(module: str) -> str:
    """``layers.3.mlp.down_proj`` of ``model.layers.3.mlp.down_proj``."""
    place = module.find("layers.")
    return module[place:] if place >= 0 else module


def _step_up(found: ErrorMap, cell: Error, now: str | None = None) -> str:
    """The next larger scheme of the map that costs this matrix less; exact where there is none.

    ``now``: what the run stores it as, where that is not ``cell``'s scheme."""
    mine = [c for c in found.cells if c.module == cell.module]
    if now is not None:
        if now == plan.EXACT:
            return now
        cell = next((c for c in mine if plan.short(c.method) == now), cell)
    larger = [c for c in mine if c.nbytes > cell.nbytes and c.output_error < cell.output_error]
    return plan.short(min(larger, key=lambda c: c.nbytes).method) if larger else plan.EXACT


def _by_layer(found: ErrorMap, scheme: str) -> dict[int, float]:
    """Layer -> the sum over its matrices: KL where it was measured, else output errors."""
    sums: dict[int, float] = {}
    for c in found.of(scheme):
        sums[c.layer] = sums.get(c.layer, 0.0) + (c.output_error if c.kl is None else c.kl)
    return sums


PANEL = Panel("error_map", "Where it hurts", "Which matrices does quantization hurt, and what would fix it?",
              build, order=45)
