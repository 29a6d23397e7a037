"""Whether the host or the device is the limit: launches, queues, idle time between kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.panels.base import Action, Content, Panel, Table

if TYPE_CHECKING:
    import polars as pl

    from workbench.store import Run
    from workbench.traces.opened import Trace

_ROWS = 10


def build(run: Run, baseline: Run | None = None) -> Content:
    """What the captures of the run saw, and the baseline's idle share beside it."""
    from workbench.errors import TraceError
    from workbench.traces import trace

    try:
        found = trace(run)
    except TraceError as problem:
        return Content(
            empty=str(problem),
            actions=[
                Action(
                    "Look at kernels",
                    {"telemetry.preset": "kernels"},
                    "costs up to a tenth of tok/s, and says how much",
                )
            ],
        )
    sentences = found.summary()
    if baseline is not None:
        sentences += _beside(found, baseline)
    tables = [
        _table(title, frame)
        for title, frame in found.tables(_ROWS).items()
        if title not in ("Kernels", "Operators of the host")
    ]
    return Content(sentences=sentences, figures=found.figures(), tables=tables)


def _beside(found: Trace, baseline: Run) -> list[str]:
    from workbench.errors import TraceError
    from workbench.traces import trace

    try:
        theirs = trace(baseline).temporal()
    except TraceError:
        return []
    mine = found.temporal()
    if not len(mine) or not len(theirs):
        return []
    return [
        f"Idle share of the captured time: {100 * mine['idle_share'][0]:.1f} %, the baseline's "
        f"{100 * theirs['idle_share'][0]:.1f} %."
    ]


def _table(title: str, frame: pl.DataFrame) -> Table:
    import polars as pl

    plain = frame.with_columns(pl.col(pl.Categorical).cast(pl.String))
    return Table(
        title,
        [c.replace("_us", " (us)").replace("_", " ") for c in plain.columns],
        [list(row) for row in plain.rows()],
    )


PANEL = Panel("launches", "Launches and idle time", "Is the host or the device the limit?", build, order=35)
