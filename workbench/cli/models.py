"""``workbench models``: the bundled models and their cards' facts."""

from __future__ import annotations

from typing import Any

import click

from workbench.cli.common import console, print_json, text_table
from workbench.units import format_bytes


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(as_json: bool) -> None:
    """List the bundled models. Others open by hub id, folder or config.json."""
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
