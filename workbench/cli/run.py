"""``workbench run``: generate text with given settings, stream it, measure it, record it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import (
    COLUMNS,
    console,
    metric_value,
    open_session,
    print_json,
    reasons,
    run_row,
    settings_from,
    settings_options,
    show_metric,
    text_table,
)
from workbench.errors import Cancelled, SettingsError, WorkbenchError

if TYPE_CHECKING:
    from workbench.session import Session
    from workbench.store import Run

#: How often the terminal looks for new tokens.
_LOOK_S = 0.05


@click.command("run")
@click.option("--prompt", "-p", "prompts", multiple=True,
              help="the text to continue; - reads stdin; several are decoded side by side, as one batch")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="read the prompt from a file")
@click.option("--label", default="", help="a name for tables and reports")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def command(prompts: tuple[str, ...], prompt_file: Path | None, label: str, as_json: bool,
            **options: Any) -> None:
    """Generate text and measure it. Without --model, the bundled model."""
    settings = settings_from(options)
    text = read_prompt(prompts, prompt_file)
    with open_session(settings) as session:
        run = session.run(text, label=label)
        try:
            follow(session, run, echo=not as_json)
        except KeyboardInterrupt:
            session.cancel(run)
            run.wait(10)
    if as_json:
        print_json(run_row(run))
    else:
        show(run)
    raise_for(run)


def read_prompt(prompts: Sequence[str], file: Path | None) -> str | list[str] | None:
    """The prompt from the options, a file, or a pipe; a list of several; None for the bundled one."""
    if prompts and file is not None:
        raise SettingsError("give --prompt or --prompt-file, not both")
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"cannot read the prompt from {file}: {error}") from None
    if list(prompts).count("-") > 1:
        raise SettingsError("stdin can be read once; give --prompt - once")
    found = [sys.stdin.read() if prompt == "-" else prompt for prompt in prompts]
    return found if len(found) > 1 else found[0] if found else None


def follow(session: Session, run: Run, echo: bool) -> None:
    """Stream the run's text to stdout and its progress to stderr until it ends; of a batch the first
    sequence streams and the others follow it."""
    from workbench.events import Note, Progress, Token

    several = len(run.prompts) > 1
    cursor, shown, err = 0, "", console(stderr=True)
    with err.status("starting") as status:
        while True:
            ended = run.status not in ("queued", "running")
            events, cursor = session.since(cursor)
            for event in events:
                if isinstance(event, Token) and event.run == run.id and event.sequence == 0:
                    if echo:
                        status.stop()
                        click.echo(("" if shown or not several else "[1] ") + event.text, nl=False)
                    shown += event.text
                elif isinstance(event, Progress) and (not shown or not echo):
                    part = f" {100 * event.done / event.total:.0f} %" if event.total else ""
                    status.update(f"{event.what}{part}")
                elif isinstance(event, Note) and event.level == "warning":
                    err.print(event.text, style="yellow", markup=False)
            if ended:
                break
            time.sleep(_LOOK_S)
    if echo and shown and not shown.endswith("\n"):
        click.echo()
    for number, text in enumerate(run.texts[1:] if echo else (), 2):
        click.echo(f"[{number}] {text}")


def show(run: Run) -> None:
    """The run's figures, and every setting that was not honoured, on stderr."""
    err = console(stderr=True)
    rows = [[heading, show_metric(name, metric_value(run, name))] for name, heading, _ in COLUMNS
            if metric_value(run, name) is not None]
    if rows:
        err.print(text_table("", ["metric", "value"], rows))
    for line in reasons([run]):
        err.print(line, style="dim", markup=False)
    for path, row in run.effective.items():
        if not row.get("honoured", True):
            err.print(f"{path}: requested {row['requested']}, effective {row['effective']} "
                      f"({row.get('reason', '')})", style="yellow", markup=False)
    err.print(f"run {run.id}: {run.path}", style="dim", markup=False)


def raise_for(run: Run) -> None:
    """The run's end as an exit code."""
    if run.status == "cancelled":
        raise Cancelled(run.error)
    if run.status != "done":
        raise WorkbenchError(run.error or f"the run ended as {run.status}")
