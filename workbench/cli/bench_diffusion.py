"""``workbench bench diffusion``: quality against parallelism of every canvas decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli.bench_decoding import progress, split_methods
from workbench.cli.bench_draft import interruptible
from workbench.cli.common import console, print_json, text_table

if TYPE_CHECKING:
    from workbench.analysis.parallelism import Point, Study


@click.command("diffusion")
@click.argument("source", metavar="[MODEL]", default="wb-dlm")
@click.option("--decoders", metavar="NAME,...", help="with arguments where wanted: "
              "'diffusion_threshold(tau=0.7),diffusion_freedave' (default: every one)")
@click.option("--tasks", metavar="NAME,...", help="only these tasks")
@click.option("--examples", type=click.IntRange(1), default=20, show_default=True,
              help="held-out examples of each task")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="write the JSON there, too")
def command(source: str, decoders: str | None, tasks: str | None, examples: int, as_json: bool,
            out: Path | None) -> None:
    """Valid answers and tokens per forward of masked-diffusion decoders on list tasks: where an answer's
    words depend on each other, fixing many of them at once costs quality. Ctrl-C keeps what is done.

    What is found is kept for this model and drawn by the panel "Quality against parallelism"."""
    from workbench.analysis.parallelism import Study, remember
    from workbench.diffusion import study as of
    from workbench.diffusion.model import open_model
    from workbench.store.environment import collect
    from workbench.zoo.list_tasks import TASKS

    with interruptible() as cancelled, progress() as told:
        told(0, 0, "loading the model")
        data = of.study(
            open_model(source), Path(source).name, examples=examples, told=told, cancelled=cancelled,
            decoders=split_methods(decoders) if decoders else of.DECODERS,
            wanted=[t.strip() for t in tasks.split(",") if t.strip()] if tasks else TASKS)
    data["environment"] = collect()
    found = Study.from_dict(data)
    if decoders is None and tasks is None and len(found.points) == len(TASKS) * len(of.DECODERS):
        remember(source, data)
    if out:
        out.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    if as_json:
        return print_json(data)
    show(found)
    return None


def show(found: Study) -> None:
    """One line per decoder, one column per task: valid answers, tokens per forward."""
    rows: list[list[str]] = []
    for decoder in found.decoders:
        cells = {p.task: p for p in found.points if p.decoder == decoder}
        rows.append([decoder.removeprefix("diffusion_"), *[_cell(cells.get(t)) for t in found.tasks]])
    console().print(text_table("", ["decoder", *found.tasks], rows))
    console(stderr=True).print(
        f"valid answers of {found.examples} and tokens per forward; a star: every text is that of one place "
        f"per forward; one right answer exists for {', '.join(found.determined) or 'none of them'}",
        markup=False, soft_wrap=True)


def _cell(point: Point | None) -> str:
    if point is None:
        return "–"
    return f"{100 * point.valid:.0f}% {point.per_forward:.1f}{'*' if point.same == point.examples else ''}"
