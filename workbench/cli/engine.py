"""``workbench engine``: an engine that other machines may use, over an encrypted connection."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("engine")
@click.option("--listen", default="tcp://127.0.0.1:5555", show_default=True, help="address")
@click.option("--keys", type=click.Path(path_type=Path), help="folder with the key pairs")
@click.option("--make-keys", is_flag=True, help="write new key pairs into --keys and leave")
def command(listen: str, keys: Path | None, make_keys: bool) -> None:
    """Run an engine for remote clients. Off by default; keys are required beyond this machine."""
    from workbench.engine import remote

    if make_keys:
        for line in remote.make_keys(keys or Path("engine-keys")):
            click.echo(line)
        return
    remote.listen(listen, keys)
