"""``workbench replay``: play a recorded run in the terminal; no model, no GPU."""

from __future__ import annotations

import time

import click

from workbench.cli.common import find_run
from workbench.cli.run import show


@click.command("replay")
@click.argument("run", required=False)
@click.option("--bundled", is_flag=True,
              help="RUN is one that comes with the workbench; without it, list them")
@click.option("--speed", default=1.0, show_default=True, help="2 plays twice as fast; 0 at once")
def command(run: str | None, bundled: bool, speed: float) -> None:
    """Play a recorded run's text as it came, then its figures."""
    from workbench.errors import SettingsError
    from workbench.events import Token
    from workbench.store import replay
    from workbench.store.bundled import bundled_run, provenance

    if speed < 0:
        raise SettingsError(f"--speed {speed} is negative; give 0 for at once, 1 for real time")
    if run is None:
        if not bundled:
            raise SettingsError("name a run to replay (`workbench runs` lists them), or give --bundled")
        return _list()
    recorded = bundled_run(run) if bundled else find_run(run)
    click.echo(f"{recorded.label}\n", err=True)
    if bundled:
        click.echo(f"{provenance(recorded)}\n", err=True)
    if speed == 0:
        click.echo(recorded.text)
    else:
        played, cursor = replay(recorded, speed=speed), 0
        while True:
            ended = played.status not in ("queued", "running")
            events, cursor = played.since(cursor)
            for event in events:
                if isinstance(event, Token) and event.sequence == 0:
                    click.echo(event.text, nl=False)
            if ended:
                break
            time.sleep(0.03)
        click.echo()
    show(recorded)


def _list() -> None:
    from workbench.store.bundled import bundled_names, bundled_run, provenance

    for name in bundled_names():
        run = bundled_run(name)
        click.echo(f"{name:24} {run.label}; {provenance(run)}")
