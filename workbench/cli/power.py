"""``workbench power``: sensors, idle power, caps and clocks, the GEMM model, a row of servers."""

from __future__ import annotations

import importlib
from typing import Any

import click

from workbench.errors import SettingsError, one_of

#: subcommand -> (module, one help line).
PARTS = {
    "status": ("power_status", "the sensors of this machine and how good they are"),
    "idle": ("power_status", "measure idle power, to be subtracted from runs"),
    "sweep": ("power_sweep", "J/token over power caps or clocks; a dry run without consent"),
    "model": ("power_model", "a model of matrix products' time and power, from this machine's own"),
    "oversubscribe": ("power_row", "how many servers fit on a row's power (POLCA)"),
}


class Parts(click.Group):
    """Loads a subcommand's module on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(PARTS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in PARTS:
            return None
        return getattr(importlib.import_module(f"workbench.cli.{PARTS[name][0]}"), name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in PARTS:
            raise SettingsError(one_of("power command", args[0], list(PARTS)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in PARTS.items()])


@click.group("power", cls=Parts, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Power and energy of this machine."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
