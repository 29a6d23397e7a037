"""``workbench save``: the model as its settings store it, as a checkpoint that other engines load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from workbench.cli.common import console, print_json, settings_from, settings_options
from workbench.units import format_bytes


@click.command("save")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def command(output: Path, as_json: bool, **options: Any) -> None:
    """Write the model with its weights setting (int4, int8, rtn, fp8, gptq, mixed) into the folder OUTPUT.

    The format is compressed-tensors, symmetric, one group per scheme; `workbench quantize` writes GPTQ and
    AWQ files."""
    from workbench.events import Event, Progress
    from workbench.quantized.save_plan import save_plan
    from workbench.sensitivity import plan as plans
    from workbench.sensitivity.mixture import everywhere, plan_for
    from workbench.techniques.weights.mixed import Mixed

    settings = settings_from(options)
    weights = settings.weights
    with console(stderr=True).status("saving") as status:
        def tell(event: Event) -> None:
            if isinstance(event, Progress) and event.total:
                status.update(f"{event.what} {event.done / event.total:.0%}  {event.detail}")

        plan = (plan_for(settings, weights, tell) if isinstance(weights, Mixed)
                else everywhere(settings, plans.short(weights)))
        made = save_plan(settings, {m: plans.scheme(s) for m, s in plan.choice.items()}, output, tell)
    if as_json:
        print_json({"path": str(made.folder), "bytes": made.nbytes, "matrices": made.matrices,
                    "scheme": made.scheme})
        return
    console().print(f"wrote {made.folder}: {format_bytes(made.nbytes)}, {made.scheme}", markup=False)
    console().print(f"open it with --model {made.folder}", markup=False)
