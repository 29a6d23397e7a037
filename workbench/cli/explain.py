"""``workbench explain``: what the panels say of a recorded run, in words and tables."""

from __future__ import annotations

import click

from workbench.cli.common import console, find_run, print_json, text_table


@click.command("explain")
@click.argument("run", default="last")
@click.option("--baseline", help="the run to compare with")
@click.option("--question", "key", help="one panel's key; all of them by default")
@click.option("--list", "listed", is_flag=True, help="list the questions")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(run: str, baseline: str | None, key: str | None, listed: bool, as_json: bool) -> None:
    """Answer the questions about RUN (an id, its beginning, a folder, or `last`)."""
    from workbench.panels import panel, panels, plain

    chosen = [panel(key)] if key else panels()
    out = console()
    if not out.is_terminal:
        out.width = 140  # a file or a pipe has no edge to wrap at
    if listed:
        if as_json:
            print_json([{"key": p.key, "question": p.question} for p in chosen])
            return
        for p in chosen:
            out.print(f"{p.key:14} {p.question}", markup=False)
        return
    found, base = find_run(run), find_run(baseline) if baseline else None
    said = [(p, p.content(found, base)) for p in chosen]
    if as_json:
        print_json({"run": found.id, "baseline": base.id if base else None,
                    "answers": {p.key: plain(c) for p, c in said}})
        return
    silent = [p for p, c in said if c.empty] if key is None else []
    for p, content in said:
        if p in silent:
            continue
        out.print(f"{p.title}: {p.question}", style="bold", markup=False)
        for line in ([content.empty] if content.empty else content.sentences):
            out.print("  " + line, markup=False)
        if not content.empty:
            for action in content.actions:
                changes = " ".join(f"--set {k}={v}" for k, v in action.changes.items())
                out.print(f"  to try: {action.label} ({changes})", markup=False)
            for t in plain(content)["tables"]:
                out.print(text_table(t["title"], t["columns"], t["rows"]))
        out.print()
    if silent:
        out.print("Nothing to say about this run: " + ", ".join(p.key for p in silent)
                  + " (--question NAME says why)", style="dim", markup=False)
