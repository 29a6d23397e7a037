"""``workbench export``: a configuration as code, YAML or other engines' flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from workbench.cli.common import find_run, print_json, settings_from, settings_options
from workbench.errors import SettingsError, one_of

FORMATS = ["python", "yaml", "json", "vllm", "llama-server", "schema"]


@click.command("export")
@click.argument("run", required=False)
@click.option("--to", "target", default="python", show_default=True, metavar="FORMAT",
              help=", ".join(FORMATS))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="write to a file")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def command(run: str | None, target: str, output: Path | None, as_json: bool,
            **options: Any) -> None:
    """Export a recorded run's settings, or the given ones."""
    from workbench.export import export
    from workbench.settings import schema

    if target not in FORMATS:
        raise SettingsError(one_of("format", target, FORMATS))
    settings = settings_from(options)
    prompt = None
    if run is not None:
        found = find_run(run)
        prompt = found.prompt
        settings = found.requested
    if target == "schema":
        import json

        text = json.dumps(schema(), indent=2)
    elif target == "json":
        text = settings.to_json()
    else:
        text = export(settings, target, prompt=prompt)
    if as_json:
        print_json({"format": target, "text": text, "settings": settings.to_dict()})
    elif output:
        output.write_text(text + ("" if text.endswith("\n") else "\n"), encoding="utf-8")
        click.echo(f"wrote {output}", err=True)
    else:
        click.echo(text)
