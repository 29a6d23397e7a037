"""What a request waited for beside inference: tokenizing, queueing, the wire, sampling, text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.analysis import overheads as of
from workbench.panels.base import Action, Content, Panel, Table
from workbench.units import format_seconds

if TYPE_CHECKING:
    from workbench.store import Run


def build(run: Run, baseline: Run | None = None) -> Content:
    """The share of inference, the largest stage beside it, all stages; they sum to the wait."""
    found = of.request(run.events)
    if found is None:
        return Content(empty="This run has no stages: it profiled a module, or an earlier version recorded "
                             "it. Runs through a session have them.")
    from workbench.charts.overheads import cascade

    base = of.request(baseline.events) if baseline is not None else None
    return Content(sentences=[*_headline(found), *_against(found, base, baseline)],
                   figures=[cascade(found, of.ONCE)], tables=[_table(found, base)],
                   actions=_actions(run, found))


def _headline(found: of.Request) -> list[str]:
    served = found.served_s or found.seconds
    said = [f"From the request to its last event {format_seconds(found.seconds)} passed"
            + (f", of which {format_seconds(found.seconds - served)} were waiting in the queue, starting or "
               "loading." if found.seconds - served > 0.001 * found.seconds else ".")]
    share = found.model_s / served if served else 0.0
    said.append(f"Of the other {format_seconds(served)}, {100 * share:.1f} % is inference and "
                f"{100 * (1 - share):.1f} % surrounds it"
                + (f": {1e3 * (served - found.model_s) / found.tokens:.3g} ms per new token."
                   if found.tokens else "."))
    beside = sorted((s for s in found.stages if not s.model and s.name not in of.ONCE),
                    key=lambda s: -s.seconds)
    if beside and served:
        said.append("The largest part beside inference is " + ", then ".join(
            f"{s.said} ({format_seconds(s.seconds)}, {100 * s.seconds / served:.2g} %)"
            for s in beside[:2]) + ".")
    return said


def _against(found: of.Request, base: of.Request | None, baseline: Run | None) -> list[str]:
    if base is None or baseline is None:
        return []
    mine, theirs = found.served_s - found.model_s, base.served_s - base.model_s
    return [f"Beside inference {baseline.label} took {format_seconds(theirs)} and this run "
            f"{format_seconds(mine)}."]


def _table(found: of.Request, base: of.Request | None) -> Table:
    theirs = {s.name: s.seconds for s in base.stages} if base else {}
    columns = ["stage", "where", "inference", "times", "ms", "% of the wait",
               *(["baseline ms"] if base else [])]
    rows = [[s.said, s.where, "yes" if s.model else "", s.calls, 1e3 * s.seconds,
             100 * s.seconds / found.seconds if found.seconds else None,
             *([1e3 * theirs[s.name] if s.name in theirs else None] if base else [])]
            for s in found.stages]
    total = ["all", "", "", None, 1e3 * found.seconds, 100.0,
             *([1e3 * base.seconds] if base else [])]
    return Table("Stages", columns, [*rows, total])


def _actions(run: Run, found: of.Request) -> list[Action]:
    seconds = {s.name: s.seconds for s in found.stages}
    served = found.served_s or 1.0
    offered = []
    if seconds.get("telemetry", 0.0) > 0.05 * served and run.requested.telemetry.preset != "off":
        offered.append(Action("Turn kernel windows off", {"telemetry.preset": "off"},
                              "they took more than 5 % of this request"))
    host = sum(seconds.get(n, 0.0) for n in ("sampling", "detokenize", "events", "other"))
    if host > 0.2 * served and run.requested.limits.batch == 1:
        offered.append(Action("Generate four at once", {"limits.batch": 4},
                              "host work between forwards is shared by the sequences"))
    return offered


PANEL = Panel(key="overheads", title="Beside inference",
              question="What does a request wait for besides the model?", build=build, order=70)
