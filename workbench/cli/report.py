"""``workbench report``: one self-contained HTML file from recorded runs."""

from __future__ import annotations

from pathlib import Path

import click

from workbench.cli.common import find_run, print_json


@click.command("report")
@click.argument("runs", nargs=-1, required=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("report.html"),
              show_default=True)
@click.option("--title", default="", help="the report's title")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(runs: tuple[str, ...], output: Path, title: str, as_json: bool) -> None:
    """Write a report from one, two or many runs; the first is the baseline."""
    from workbench.report import write

    found = [find_run(name) for name in runs]
    path = write(found, output, title=title or None)
    if as_json:
        print_json({"path": str(path), "runs": [r.id for r in found]})
    else:
        click.echo(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB, opens offline)")
