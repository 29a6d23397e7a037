"""``workbench compare``: recorded runs beside a baseline, with the reasons for what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import (
    COLUMNS,
    console,
    find_run,
    metric_value,
    metrics_dict,
    print_json,
    reasons,
    show_metric,
    text_table,
)

if TYPE_CHECKING:
    from workbench.store import Run


@click.command("compare")
@click.argument("runs", nargs=-1, required=True)
@click.option("--baseline", help="the run to compare with; the first one by default")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(runs: tuple[str, ...], baseline: str | None, as_json: bool) -> None:
    """Compare runs (ids, beginnings of ids, folders, or `last`) with a baseline."""
    from workbench.analysis import textdiff

    found = [find_run(name) for name in runs]
    base = find_run(baseline) if baseline else found[0]
    if all(r.id != base.id for r in found):
        found.insert(0, base)
    if as_json:
        print_json({"baseline": base.id, "runs": [_row(r, base) for r in found]})
        return
    out = console()
    out.print(comparison_table(found, base))
    for run in found:
        if run.id != base.id:
            out.print(f"{run.label}: {textdiff(base.text, run.text).summary}", markup=False)
    for line in reasons(found):
        out.print(line, style="dim", markup=False)


def _row(run: Run, base: Run) -> dict[str, Any]:
    from workbench.analysis import textdiff

    return {"id": run.id, "label": run.label, "status": run.status, "metrics": metrics_dict(run),
            "ratio": {name: ratio(run, base, name) for name, _, _ in COLUMNS},
            "settings_changed": {k: list(v) for k, v in
                                 base.requested.diff(run.requested).items()},
            "text_diff": textdiff(base.text, run.text).summary}


def ratio(run: Run, base: Run, name: str) -> float | None:
    mine, theirs = metric_value(run, name), metric_value(base, name)
    return mine / theirs if mine is not None and theirs else None


def comparison_table(runs: list[Run], base: Run) -> Any:
    """A rich table: one row per metric, one column per run, ratios behind the speeds."""
    rows = []
    for name, heading, _ in COLUMNS:
        cells = [heading]
        for run in runs:
            cell, change = show_metric(name, metric_value(run, name)), ratio(run, base, name)
            if run.id != base.id and change is not None and name in ("tok_per_s", "ttft_s"):
                cell += f" ({change:.2f}x)"
            cells.append(cell)
        rows.append(cells)
    names = [r.label + (" (baseline)" if r.id == base.id else "") for r in runs]
    return text_table("", ["", *names], rows)
