"""``workbench models``: the bundled models and their cards' facts; ``widen``: a large copy of a small one;
``prune``, ``slice``, ``sparsify``, ``puzzle`` (in prune.py): smaller ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli import prune as smaller
from workbench.cli.common import console, print_json, text_table
from workbench.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable


@click.group("models", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the bundled models. Others open by hub id, folder or config.json."""
    if context.invoked_subcommand is None:
        _list(as_json)


@command.command("widen")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--width", required=True, type=click.IntRange(1),
              help="of the residual stream: a multiple of the source's; powers of two round nothing")
@click.option("--ff", type=click.IntRange(1), help="of the feed-forward part (default: grown like the width)")
@click.option("--layers", type=click.IntRange(1),
              help="in all; those beyond the source's change nothing (default: the source's)")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def widen(source: str, out: Path, width: int, ff: int | None, layers: int | None, as_json: bool) -> None:
    """A large copy of the Llama-style model SOURCE (a bundled name or a folder) that writes the same text.

    It costs what a model of its size costs: for measuring speculation where a forward is bound by memory.
    """
    from workbench import zoo
    from workbench.zoo.recipes import widen as recipe

    folder = zoo.path(source) if source in zoo.names() else Path(source)
    with _progress("writing the copy") as told:
        made = recipe.widen(folder, out, width, layers, ff, told=told)
    if as_json:
        return print_json(made)
    console().print(f"{made['parameters'] / 1e6:.0f} M parameters in {made['folder']}; its config.json says "
                    f"that it is a widened copy of {folder.name}", markup=False, soft_wrap=True)
    return None


for _made in (smaller.prune, smaller.slice_, smaller.sparsify, smaller.puzzle):
    command.add_command(_made)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; Ctrl-C ends the copy and removes what was written."""
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _list(as_json: bool) -> None:
    from workbench import zoo
    from workbench.shape import from_file

    rows: list[dict[str, Any]] = []
    for name in zoo.names():
        folder = zoo.path(name)
        shape = from_file(folder)
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        rows.append({"name": name, "default": name == zoo.DEFAULT, "draft": zoo.draft_for(name),
                     "parameters": shape.parameters, "layers": shape.layers,
                     "hidden": shape.hidden, "vocab": shape.vocab, "bytes": size,
                     "path": str(folder), "card": zoo.card(name)})
    if as_json:
        print_json(rows)
        return
    table = [[str(r["name"]) + (" (default)" if r["default"] else ""),
              f"{r['parameters'] / 1e6:.1f} M", f"{r['layers']} x {r['hidden']}",
              format_bytes(r["bytes"]), str(r["draft"] or "")] for r in rows]
    console().print(text_table("", ["model", "parameters", "layers x width", "size", "its draft"],
                               table))
    console(stderr=True).print("any other: --model org/name, --model FOLDER, or "
                               "--model config.json --set model.weights=random", markup=False)
