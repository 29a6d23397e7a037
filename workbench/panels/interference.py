"""Whether a neighbour disturbed the run, with the evidence; a badge on those that it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.analysis import interference as of
from workbench.events import Interference
from workbench.panels.base import Action, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run


def build(run: Run, baseline: Run | None = None) -> Content:
    """The badge first, then what it rests on, then whether a comparison can be believed."""
    events = list(run.events)
    found = of.disturbance(events)
    seen = [e for e in events if isinstance(e, Interference)]
    if not seen:
        return Content(empty=f"Nothing is known of the neighbours: {found.reason}.")
    from workbench.charts.interference import neighbours

    pair = [(run, found)]
    if baseline is not None:
        pair.append((baseline, of.disturbance(baseline.events)))
    return Content(sentences=[*_verdict(found), *_against(pair)], figures=[neighbours(seen)],
                   tables=[_table(pair)], actions=_actions(run, found))


def _verdict(found: of.Disturbance) -> list[str]:
    because = "; ".join(found.evidence)
    if found.badge:
        said = [f"Disturbed: a neighbour made this run about {found.slowdown:.3g} times as slow "
                f"(estimated from its threads' waiting; {found.disturbed_s:.2g} of {found.seconds:.2g} s "
                f"were disturbed). The evidence: {because}."]
    elif found.slowdown is not None:
        said = [f"Undisturbed: alone it would have been {100 * (found.slowdown - 1):.2g} % faster at most "
                f"(estimated from its threads' waiting). The evidence: {because}."]
    else:
        said = [f"Not known: {found.reason}. What was seen: {because}."]
    return [*said, f"A suspicion: {found.suspicion}."] if found.suspicion else said


def _against(pair: list[tuple[Run, of.Disturbance]]) -> list[str]:
    bad = [r.label for r, d in pair if d.badge]
    if len(pair) < 2 or not bad:
        return []
    return ["Do not compare the two: " + " and ".join(bad) + (" was" if len(bad) == 1 else " were")
            + " disturbed. Run again on a quiet machine, or several times in turn."]


def _table(pair: list[tuple[Run, of.Disturbance]]) -> Table:
    columns = ["run", "slowdown (estimated)", "waited %", "others' CPU %", "put aside per s", "PSI %",
               "steal %", "spread of steps %"]
    return Table("Neighbours", columns, [_row(r, d) for r, d in pair])


def _row(run: Run, found: of.Disturbance) -> list[str | int | float | None]:
    seen = [e for e in run.events if isinstance(e, Interference)]

    def percent(name: str) -> float | None:
        value = of.mean(seen, name)
        return None if value is None else 100 * value

    spread = of.step_spread(run.events)
    return [run.label, found.slowdown, percent("waited"), percent("others"),
            of.mean(seen, "involuntary_per_s"), percent("pressure"), percent("steal"),
            100 * spread[0] if spread else None]


def _actions(run: Run, found: of.Disturbance) -> list[Action]:
    if not found.badge or run.requested.model.source.startswith("module:"):
        return []
    threads = run.requested.compute.threads
    again = [Action("Run again", {}, "the same settings, when the neighbour has gone")]
    if threads != 1:
        again.append(Action("Use one thread", {"compute.threads": 1},
                            "threads that wait for each other suffer most when a core is taken"))
    return again


PANEL = Panel(key="interference", title="Neighbours", question="Did a neighbour disturb this run?",
              build=build, order=75)
