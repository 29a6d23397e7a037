"""What did the configuration lose? Figures with error bars, agreement, where the text parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench import events as ev
from workbench.analysis import textdiff
from workbench.panels.base import Action, Cell, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run

#: Metric -> how the table names it, its unit.
_ROWS = {"perplexity": ("perplexity", ""), "kl_mean": ("KL to the reference, mean", "nats"),
         "kl_median": ("KL, median", "nats"), "kl_p99": ("KL, 99th percentile", "nats"),
         "top1": ("same most probable token", "share"), "accuracy": ("tasks answered rightly", "share")}
#: Differences within this many standard errors are not told apart.
_APART = 2.0


def build(run: Run, baseline: Run | None = None) -> Content:
    """The newest figure of every metric, the baseline's beside them, and where the texts part."""
    found = _figures(run)
    parted = _texts(run, baseline)
    if not found:
        return Content(
            empty="The quality of this run was not measured. " + parted if parted else
                  "The quality of this run was not measured: set quality=quick, or compare schemes with "
                  "`workbench evaluate`.",
            actions=[Action("Measure it", {"quality.level": "quick"},
                            help="perplexity, and KL and agreement with the untouched model")])
    theirs = _figures(baseline) if baseline is not None else {}
    sentences = [*_loss(found), *_against(run, baseline, found, theirs), *([parted] if parted else [])]
    return Content(sentences=sentences, tables=[_table(run, baseline, found, theirs)],
                   actions=_actions(run, found))


def _figures(run: Run) -> dict[str, ev.Quality]:
    """Metric -> its newest figure: partial ones while an evaluation runs."""
    return {e.metric: e for e in run.events if isinstance(e, ev.Quality)}


def _loss(found: dict[str, ev.Quality]) -> list[str]:
    said = []
    kl, top1 = found.get("kl_mean"), found.get("top1")
    if kl is not None:
        tail = found.get("kl_p99")
        said.append(f"It loses {_with(kl)} nats per token against {kl.against or 'the reference'}"
                    + (f"; one token in a hundred loses {tail.value:.2g} or more" if tail is not None else "")
                    + ".")
        if kl.se is not None and kl.value < _APART * kl.se:
            said.append("That is within its own error: more text is needed to say that anything is lost.")
    if top1 is not None and top1.value < 1:
        said.append(f"The most probable token is another one in {100 * (1 - top1.value):.2g} % of the places "
                    "of the evaluation text.")
    unfinished = [e for e in found.values() if not e.done]
    if unfinished:
        said.append(f"The evaluation is not finished: these figures are of {unfinished[0].tokens} tokens.")
    return said


def _against(run: Run, baseline: Run | None, found: dict[str, ev.Quality], theirs: dict[str, ev.Quality]
             ) -> list[str]:
    """Whether the error bars tell the two runs apart."""
    if baseline is None or not theirs:
        return []
    said = []
    for metric, word in (("kl_mean", "loses"), ("perplexity", "has perplexity")):
        a, b = found.get(metric), theirs.get(metric)
        if a is None or b is None or a.se is None or b.se is None:
            continue
        apart = abs(a.value - b.value) > _APART * (a.se**2 + b.se**2) ** 0.5
        less = "less" if a.value < b.value else "more"
        said.append(f"{run.label} {word} {_with(a)}, {baseline.label} {_with(b)}: "
                    + (f"{less}, beyond the error bars." if apart
                       else "the error bars do not tell them apart."))
    return said


def _texts(run: Run, baseline: Run | None) -> str:
    if baseline is None or not run.text or not baseline.text or run.prompts != baseline.prompts:
        return ""
    if run.requested.sampling.temperature > 0:
        return "The texts were sampled, so they may part without anything being lost."
    return f"Against {baseline.label}: {textdiff(baseline, run).summary}"


def _with(e: ev.Quality) -> str:
    return f"{e.value:.3g}" + ("" if e.se is None else f" ± {e.se:.1g}")


def _table(run: Run, baseline: Run | None, found: dict[str, ev.Quality], theirs: dict[str, ev.Quality]
           ) -> Table:
    columns = ["figure", "unit", run.label, "±"]
    if baseline is not None:
        columns += [f"{baseline.label} (baseline)", "± "]
    rows: list[list[Cell]] = []
    for metric, (name, unit) in _ROWS.items():
        if metric not in found and metric not in theirs:
            continue
        row: list[Cell] = [name, unit, *_cells(found.get(metric))]
        rows.append(row + _cells(theirs.get(metric)) if baseline is not None else row)
    return Table("Quality", columns, rows)


def _cells(e: ev.Quality | None) -> list[Cell]:
    return [None, None] if e is None else [e.value, e.se]


def _actions(run: Run, found: dict[str, ev.Quality]) -> list[Action]:
    if run.requested.quality.level != "quick":
        return []
    tokens = next(iter(found.values())).tokens
    return [Action("All of the evaluation text", {"quality.level": "full"},
                   help=f"these figures are of {tokens} tokens; more make the error bars smaller")]


PANEL = Panel("quality", "Quality", "What did this configuration lose, and is that sure?", build, order=42)
