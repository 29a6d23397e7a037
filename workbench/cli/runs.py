"""``workbench runs``: the store's recorded runs."""

from __future__ import annotations

import click

from workbench.cli.common import (
    console,
    find_run,
    metric_value,
    metrics_dict,
    print_json,
    show_metric,
    text_table,
)


@click.command("runs")
@click.option("--delete", "delete", multiple=True, metavar="RUN", help="delete a run's folder")
@click.option("--label", nargs=2, metavar="RUN NAME", help="rename a run")
@click.option("--export", "exported", nargs=2, metavar="RUN FILE",
              help="write a run: a bundle (.zip), or a trace for Perfetto with the run inside (.json.gz)")
@click.option("--import", "imported", metavar="FILE", help="add the run of such a file")
@click.option("--limit", default=20, show_default=True, help="how many of the newest to list")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(delete: tuple[str, ...], label: tuple[str, str] | None, exported: tuple[str, str] | None,
            imported: str | None, limit: int, as_json: bool) -> None:
    """List the recorded runs, newest last."""
    from workbench.store import Store, export_bundle, export_trace, import_bundle, import_trace

    store = Store()
    for name in delete:
        store.delete(find_run(name).id)
    if label:
        store.rename(find_run(label[0]).id, label[1])
    if exported:
        write = export_bundle if exported[1].endswith(".zip") else export_trace
        click.echo(f"wrote {write(find_run(exported[0]), exported[1])}", err=True)
    if imported:
        added = (import_bundle if imported.endswith(".zip") else import_trace)(imported, store)
        click.echo(f"added run {added.id} ({added.label})", err=True)
    runs = sorted(store.runs(), key=lambda r: r.id)[-limit:]
    if as_json:
        print_json([{"id": r.id, "label": r.label, "status": r.status, "created": r.created,
                     "path": str(r.path), "metrics": metrics_dict(r)} for r in runs])
        return
    rows = [[r.id, r.label, r.status, show_metric("tok_per_s", metric_value(r, "tok_per_s")),
             show_metric("ttft_s", metric_value(r, "ttft_s"))] for r in runs]
    console().print(text_table("", ["run", "label", "status", "tok/s", "TTFT"], rows))
