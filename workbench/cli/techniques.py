"""``workbench techniques``: the catalogue from the techniques' own metadata."""

from __future__ import annotations

from typing import Any

import click

from workbench.cli.common import console, print_json, text_table
from workbench.errors import SettingsError, one_of
from workbench.techniques.base import Technique, all_techniques


@click.command("techniques")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(name: str | None, as_json: bool) -> None:
    """List the catalogue, or show one technique with its controls."""
    found = all_techniques()
    if name:
        found = [t for t in found if name in (t.name(), f"{t.family()}/{t.name()}")]
        if not found:
            raise SettingsError(one_of("technique", name, [t.name() for t in all_techniques()]))
    if as_json:
        print_json([describe(t) for t in found])
    elif name:
        for technique in found:
            _show(technique)
    else:
        rows = [[t.name(), t.family(), "yes" if t.lossless else "no", t.paper.cite, t.summary()]
                for t in found]
        console().print(text_table("", ["name", "family", "lossless", "source", "what"], rows,
                                   numbers=False))


def describe(technique: type[Technique]) -> dict[str, Any]:
    """Everything a view or a script may want to know, as plain data."""
    return {
        "name": technique.name(), "family": technique.family(), "title": technique.title,
        "summary": technique.summary(), "lossless": technique.lossless,
        "paper": {"arxiv": technique.paper.arxiv, "cite": technique.paper.cite,
                  "section": technique.paper.section, "url": technique.paper.url},
        "claim": {"text": technique.claim.text, "setup": technique.claim.setup,
                  "memory": technique.claim.memory},
        "needs": list(technique.needs), "excludes": technique.excludes,
        "controls": [{"name": c.name, "type": c.type.__name__, "default": c.default,
                      "low": c.low, "high": c.high, "unit": c.unit, "help": c.help,
                      "choices": list(c.choices) if c.choices else None}
                     for c in technique.controls()],
    }


def _show(technique: type[Technique]) -> None:
    facts = describe(technique)
    paper, claim = facts["paper"], facts["claim"]
    out = console()
    out.print(f"{facts['family']}/{facts['name']}: {facts['summary']}", style="bold", markup=False)
    out.print(f"source: {paper['cite']} {paper['url']}", markup=False)
    if claim["text"]:
        setup = f" ({claim['setup']})" if claim["setup"] else ""
        out.print(f"claims: {claim['text']}{setup}", markup=False)
    rows = [[c["name"], str(c["default"]), _range(c), c["help"]] for c in facts["controls"]]
    if rows:
        out.print(text_table("", ["control", "default", "valid", "help"], rows, numbers=False))


def _range(knob: dict[str, Any]) -> str:
    if knob["choices"]:
        return ", ".join(map(str, knob["choices"]))
    if knob["low"] is None and knob["high"] is None:
        return knob["type"]
    return f"{knob['low']} to {knob['high']}"
