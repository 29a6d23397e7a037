"""``workbench heads``: heads that draft for a model; train one, list what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from workbench.cli.common import console, print_json, text_table
from workbench.units import format_bytes


@click.group("heads")
def command() -> None:
    """Small trained modules that draft for one model (decoding=medusa, eagle, ...)."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def listed(as_json: bool) -> None:
    """The heads that are here, bundled and trained."""
    rows = [row for where, root in _roots() for row in [*_heads_in(root, where), *_pads_in(root, where)]]
    if as_json:
        print_json(rows)
        return
    table = [[r["target"], r["method"], format_bytes(r["bytes"]), "  ".join(
        f"{h:.0%}" for h in r["first_guess"]) or "see its card", r["where"]] for r in rows]
    console().print(text_table("", ["target", "method", "size", "first guess right, by step", "from"], table))
    console(stderr=True).print("use one: workbench run --decoding METHOD; make one: workbench heads train "
                               "MODEL --method METHOD", markup=False, soft_wrap=True)


def _roots() -> list[tuple[str, Path]]:
    from workbench import zoo
    from workbench.heads import spec

    return [("bundled", zoo.heads()), ("trained here", spec.home())]


def _heads_in(root: Path, where: str) -> list[dict[str, Any]]:
    """The heads of this folder; ``first_guess``: by step, on held-out text."""
    from workbench.heads import spec

    rows: list[dict[str, Any]] = []
    for file in sorted(root.glob(f"*/*/{spec.SPEC}")):
        if file.parent.name not in spec.METHODS:
            continue
        found = spec.HeadSpec.read(file.parent)
        rows.append({"target": found.target, "method": found.method, "steps": found.steps,
                     "bytes": _size(file.parent), "first_guess": [h[0] for h in found.hits],
                     "where": where, "path": str(file.parent)})
    return rows


def _pads_in(root: Path, where: str) -> list[dict[str, Any]]:
    """LUD's embeddings: no head, and nothing of them was counted on held-out text."""
    return [{"target": file.parent.parent.name, "method": "lud", "steps": 3, "bytes": _size(file.parent),
             "first_guess": [], "where": where, "path": str(file.parent)}
            for file in sorted(root.glob("*/lud/lud.json"))]


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))


@command.command("train")
@click.argument("model", default="bundled")
@click.option("--method", required=True, help="medusa, clover, eagle, dovetail, hidden_transfer or ppd")
@click.option("--steps", default=400, show_default=True, type=click.IntRange(1), help="training steps")
@click.option("--windows", default=1024, show_default=True, type=click.IntRange(1),
              help="texts that the model writes to learn from")
@click.option("--new", default=96, show_default=True, type=click.IntRange(8), help="tokens of each text")
@click.option("--batch", default=12, show_default=True, type=click.IntRange(1), help="texts of one step")
@click.option("--depth", default=0, type=click.IntRange(0, 8), help="tokens ahead; 0: the method's own")
@click.option("--text", default="bundled", show_default=True, help="what they begin with: a text file")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="folder; by default where drafting looks for it")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="change a setting")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def train(model: str, changes: tuple[str, ...], out: Path | None, as_json: bool, **order: Any) -> None:
    """Train a head for MODEL (bundled, org/name, a folder). Ctrl-C stops and leaves what was there."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from workbench.cli.common import split_pair
    from workbench.heads.service import Order, train_head
    from workbench.settings import Settings

    settings = Settings().with_({"model.source": model, **dict(split_pair(p) for p in changes)})
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=console(stderr=True)) as progress:
        task = progress.add_task("", total=1)
        made = train_head(settings, Order(**order), out=out, tell=lambda what, done, of: progress.update(
            task, description=what, completed=done, total=of))
    if as_json:
        print_json({"path": str(made.folder), "parameters": made.parameters, "hits": made.hits,
                    "seconds": made.seconds})
        return
    rates = ", ".join(f"{row[0]:.0%}" for row in made.hits)
    console().print(f"wrote {made.folder}: {made.parameters:,} parameters in {made.seconds:.0f} s")
    console().print(f"first guess right on held-out text, by step: {rates}")
    console().print(f"use it: --model {model} --set decoding={order['method']}", markup=False)
