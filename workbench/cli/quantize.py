"""``workbench quantize``: a quantized checkpoint, calibrated here, in a format that other engines load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from workbench.cli.common import console, print_json
from workbench.units import format_bytes

METHODS: dict[str, dict[str, Any]] = {
    "gptq": {"rounding": "gptq"}, "nearest": {"rounding": "nearest"},
    "awq": {"rounding": "nearest", "scaling": True}, "awq+gptq": {"rounding": "gptq", "scaling": True},
    "rotation": {"rounding": "gptq", "rotation": True}}


@click.command("quantize")
@click.argument("model")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(list(METHODS)), default="gptq", show_default=True)
@click.option("--format", "kind", default="compressed-tensors", show_default=True,
              help="compressed-tensors, gptq or awq")
@click.option("--bits", default=4, show_default=True, help="bits per weight, 2 to 8")
@click.option("--group", default=64, show_default=True, help="columns that share a scale; 0: the row")
@click.option("--symmetric/--asymmetric", default=None,
              help="without or with zero points [default: symmetric, but awq files always have them]")
@click.option("--act-order/--no-act-order", default=True, show_default=True,
              help="round columns with large inputs first")
@click.option("--clip/--no-clip", default=True, show_default=True, help="search for smaller ranges")
@click.option("--damp", default=0.01, show_default=True, help="share of the mean diagonal that is added")
@click.option("--samples", default=128, show_default=True, help="windows of calibration text")
@click.option("--length", default=512, show_default=True, help="tokens per window")
@click.option("--text", default="bundled", show_default=True, help="bundled, or a text file")
@click.option("--seed", default=0, show_default=True, help="chooses the windows")
@click.option("--random", is_flag=True, help="fill the shape with random numbers instead of reading weights")
@click.option("--json", "as_json", is_flag=True, help="print JSON, with the error of every matrix")
def command(model: str, output: Path, method: str, kind: str, as_json: bool, random: bool,
            symmetric: bool | None, **options: Any) -> None:
    """Quantize MODEL (bundled, org/name, a folder) into the new folder OUTPUT.

    Layer by layer; stopped, the same command goes on where it was."""
    from workbench.calibration.recipe import Recipe
    from workbench.events import Event, Progress
    from workbench.quantized.save import save
    from workbench.settings import Settings

    changes = {"model.source": model, **({"model.weights": "random"} if random else {})}
    settings = Settings().with_(changes)
    recipe = Recipe(symmetric=kind != "awq" if symmetric is None else symmetric, **METHODS[method], **options)
    with console(stderr=True).status("calibrating") as status:
        def tell(event: Event) -> None:
            if isinstance(event, Progress) and event.total:
                status.update(f"{event.what} {event.done / event.total:.0%}  {event.detail}")

        made = save(settings, recipe, output, kind, tell)
    errors = {name: round(e, 8) for name, e in made.errors.items()}
    if as_json:
        print_json({"path": str(made.folder), "bytes": made.nbytes, "matrices": made.matrices,
                    "scheme": made.scheme, "recipe": recipe.to_dict(), "relative_output_error": errors})
        return
    console().print(f"wrote {made.folder}: {format_bytes(made.nbytes)}, {made.scheme}; {made.matrices} "
                    f"matrices by {recipe.title()}")
    for name, error in sorted(errors.items(), key=lambda item: -item[1])[:3]:
        console().print(f"largest output error: {name} {error:.2%}")
