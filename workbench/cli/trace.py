"""``workbench trace``: what any trace file or run says about launches, idle time and the critical path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import console, find_run, print_json, text_table

if TYPE_CHECKING:
    import polars as pl


@click.command("trace")
@click.argument("source")
@click.option("--top", default=12, show_default=True, help="rows per table")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(source: str, top: int, as_json: bool) -> None:
    """Analyse SOURCE: a Chrome or Kineto trace (.json, .json.gz; of PyTorch's profiler, HTA, a run's
    export), a run's id, or `last`."""
    from rich.progress import Progress

    from workbench.panels.base import say
    from workbench.traces import trace

    out = console(stderr=True)
    what: Any = Path(source) if Path(source).is_file() else find_run(source)
    with Progress(console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(f"reading {source}", total=1.0)
        found = trace(what, progress=lambda share: bar.update(task, completed=share))
        said, tables, t = found.summary(), found.tables(top), found.tklqt()
    if as_json:
        print_json(
            {
                "source": found.source,
                "rank": found.rank,
                "events": len(found.frame),
                "summary": said,
                "lost_bytes": found.lost_bytes,
                "skipped": found.skipped,
                "tklqt": {
                    "kernels": t.kernels,
                    "total_us": t.total_us,
                    "kernel_us": t.kernel_us,
                    "floor_us": t.floor_us,
                    "bound": t.bound,
                },
                "tables": {k: _plain(f).rows(named=True) for k, f in tables.items()},
            }
        )
        return
    shown = console()
    if not shown.is_terminal:
        shown.width = 140  # a file or a pipe has no edge to wrap at
    for line in said:
        shown.print(line, markup=False)
    for title, frame in tables.items():
        rows = [[_cut(say(c)) for c in row] for row in _plain(frame).rows()]
        shown.print(text_table(title, frame.columns, rows))


def _cut(cell: str, most: int = 56) -> str:
    return cell if len(cell) <= most else cell[: most - 3] + "..."


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    return frame.with_columns(pl.col(pl.Categorical).cast(pl.String))
