"""Where a profiled module's forward goes: by module, class and operator, against the floors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.analysis import modules as of
from workbench.panels.base import Content, Panel, Table
from workbench.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from workbench.store import Run


def build(run: Run, baseline: Run | None = None) -> Content:
    """Empty for runs that generated text; those have other panels."""
    events = list(run.events)
    timed = of.step(events)
    if timed is None:
        return Content(empty="This run generated text; the other panels say where its time went. "
                             "wb.profile(module, inputs) fills this one for any torch.nn.Module.")
    from workbench.charts import modules as charts

    theirs = list(baseline.events) if baseline is not None else []
    base = of.by_module(theirs) if of.is_module(theirs) else []
    named = of.by_module(events)
    names = (run.label, baseline.label if baseline is not None else "")
    figures = [charts.by_module(named, base, names), charts.against_floor(of.by_operator(events))]
    tables = [_table("By module", named), _table("By class of module", of.by_class(events)),
              _table("By operator", of.by_operator(events))]
    return Content(sentences=[*_headline(run, events, timed), *_against(run, events, baseline, theirs)],
                   figures=figures, tables=tables)


def _headline(run: Run, events: list, timed: of.Step) -> list[str]:
    said = [f"{run.prompt}: {format_seconds(timed.p50_s)} per forward (median of {timed.forwards}, p99 "
            f"{format_seconds(timed.p99_s)}), {timed.items / timed.p50_s:,.4g} items per second."]
    if timed.spread > 0.2:
        said.append(f"Take care: half of the forwards spread over {100 * timed.spread:.0f} % of the "
                    "median, so something else was at work; see the neighbours panel.")
    operators = of.by_operator(events)
    whole = sum(p.seconds for p in operators)
    if not operators or whole <= 0:
        return said
    first = operators[0]
    said.append(f"Under the profiler {first.name} takes {100 * first.seconds / whole:.0f} % of the "
                f"forward in {first.calls:.0f} calls; all rows sum to the forward.")
    share = of.python_share(events)
    if share is not None and share > 0.3:
        said.append(f"{100 * share:.0f} % is Python between operators: this module is bound by the host, "
                    "and larger batches, torch.compile or a CUDA graph would help more than faster "
                    "operators.")
    flops, moved = sum(p.flops for p in operators), sum(p.bytes for p in operators)
    if moved:
        said.append(f"It does {flops / 1e6:,.4g} MFLOP on {format_bytes(moved)} read and written "
                    f"({flops / moved:.2g} FLOP per byte).")
    peak = of.peak_activations(events)
    if peak is not None:
        said.append(f"Its activations hold {format_bytes(peak)} at most.")
    return said


def _against(run: Run, events: list, baseline: Run | None, theirs: list) -> list[str]:
    mine, other = of.step(events), of.step(theirs)
    if baseline is None:
        return []
    if other is None or mine is None:
        return [f"{baseline.label} generated text, so the two are not compared."]
    ratio = other.p50_s / mine.p50_s
    doubt = max(mine.spread, other.spread)
    clear = "" if abs(ratio - 1) > doubt / 2 else ", which is within their spread"
    word = f"{ratio:.3g} times as fast as" if ratio >= 1 else f"{1 / ratio:.3g} times as slow as"
    said = [f"It is {word} {baseline.label} ({format_seconds(other.p50_s)} per forward){clear}."]
    moved = _largest_change(of.by_module(events), of.by_module(theirs))
    return [*said, moved] if moved else said


def _largest_change(mine: list[of.Part], theirs: list[of.Part]) -> str:
    known = {p.name: p.seconds for p in theirs}
    changes = [(p.seconds - known[p.name], p.name) for p in mine if p.name in known]
    if not changes:
        return ""
    delta, name = max(changes, key=lambda c: abs(c[0]))
    return f"The largest change is in {name}: {1e3 * delta:+.3g} ms per forward under the profiler."


def _table(title: str, parts: list[of.Part]) -> Table:
    whole = sum(p.seconds for p in parts) or 1.0
    return Table(f"{title} (per forward, under the profiler)",
                 ["what", "ms", "%", "calls", "MB", "MFLOP", "floor ms", "% of floor"],
                 [[p.name, 1e3 * p.seconds, 100 * p.seconds / whole, p.calls, p.bytes / 1e6 or None,
                   p.flops / 1e6 or None, 1e3 * p.floor_s or None,
                   100 * p.of_floor if p.of_floor is not None else None] for p in parts[:24]])


PANEL = Panel(key="modules", title="Modules", question="Where does a module's forward spend its time?",
              build=build, order=90)
