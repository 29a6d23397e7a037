"""``workbench gguf``: a model as a GGUF file, for llama.cpp and what reads its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from workbench.cli.common import console, print_json, settings_from, settings_options
from workbench.units import format_bytes


@click.command("gguf")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--type", "kind", help="f32 f16 bf16 q8_0 q4_0 q4_1 q5_0; q4_k_m q4_k_s q5_k_m q6_k through "
              "llama.cpp [default: the blocks nearest to the weights setting, else q8_0]")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def command(output: Path, kind: str | None, as_json: bool, **options: Any) -> None:
    """Write the model as a GGUF file, with its tokenizer."""
    from workbench.events import Event, Progress
    from workbench.export import gguf

    settings = settings_from(options)
    kind = kind or matching(str(settings.weights.name()), settings.weights.to_dict())
    with console(stderr=True).status("converting") as status:
        def tell(event: Event) -> None:
            if isinstance(event, Progress) and event.total:
                status.update(f"converting {event.done / event.total:.0%}  {event.detail}")

        made = gguf.write(settings, output, kind, tell)
    if as_json:
        print_json({"path": str(made.path), "bytes": made.nbytes, "scheme": made.scheme,
                    "notes": list(made.notes)})
        return
    console().print(f"wrote {made.path}: {format_bytes(made.nbytes)}, {made.scheme}")
    for note in made.notes:
        console().print(f"note: {note}")


def matching(name: str, knobs: dict[str, Any]) -> str:
    """The block type nearest to a weights setting: as many bits, an offset where it has one.

    Blocks are of 32 columns; groups of another width become blocks of 32, which is a little larger."""
    bits = knobs.get("bits", {"int4": 4, "int8": 8, "fp32": 32}.get(name, 0))
    if name == "fp32":
        return "f32"
    if bits in (4, 5) and name in ("int4", "rtn", "gptq", "awq", "rotation", "mixed"):
        return "q5_0" if bits == 5 else "q4_0" if knobs.get("symmetric") else "q4_1"
    return "q8_0"
