"""``workbench replay``: play a recorded run in the terminal; no model, no GPU."""

from __future__ import annotations

import time

import click

from workbench.cli.common import find_run
from workbench.cli.run import show


@click.command("replay")
@click.argument("run")
@click.option("--speed", default=1.0, show_default=True, help="2 plays twice as fast; 0 at once")
def command(run: str, speed: float) -> None:
    """Play a recorded run's text as it came, then its figures."""
    from workbench.errors import SettingsError
    from workbench.events import Token
    from workbench.store import replay

    if speed < 0:
        raise SettingsError(f"--speed {speed} is negative; give 0 for at once, 1 for real time")
    recorded = find_run(run)
    click.echo(f"{recorded.label}\n", err=True)
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
