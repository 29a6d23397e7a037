"""``workbench bench diffusion``: quality against parallelism of every canvas decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli.bench_decoding import narrow, progress, split_methods
from workbench.cli.bench_draft import interruptible
from workbench.cli.common import console, print_json

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


#: Tasks that a terminal has room for, each in a column of its own.
_COLUMNS = 5


def show(found: Study) -> None:
    """One line per decoder: valid answers and tokens per forward, tasks with one right answer together."""
    columns = {t: [t] for t in found.tasks}
    if len(columns) > _COLUMNS:
        columns = {"one right": list(found.determined),
                   **{t: [t] for t in found.tasks if t not in found.determined}}
    rows = []
    for decoder in found.decoders:
        mine = [p for p in found.points if p.decoder == decoder]
        rows.append([decoder.removeprefix("diffusion_"),
                     *[_cell([p for p in mine if p.task in tasks]) for tasks in columns.values()]])
    console().print(narrow("valid answers, tokens per forward", ["decoder", *columns], rows))
    console(stderr=True).print(
        f"valid answers on {found.examples} examples of each task, and tokens per forward; a star: every "
        f"text is that of one place per forward; one right answer: "
        f"{', '.join(found.determined) or 'none of these'}", markup=False, soft_wrap=True)


def _cell(points: list[Point]) -> str:
    """Sums over these tasks."""
    if not points:
        return "–"
    valid = sum(p.right for p in points) / sum(p.examples for p in points)
    speed = sum(p.tokens for p in points) / sum(p.forwards for p in points)
    return f"{100 * valid:.0f}% {speed:.1f}{'*' if all(p.same == p.examples for p in points) else ' '}"
