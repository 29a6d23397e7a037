"""Documentation pages made from the catalogue: never edited by hand, checked by a test.

    python -m workbench.export.pages docs      # writes docs/techniques.md, docs/settings.schema.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from workbench.settings import schema
from workbench.settings.tree import FAMILIES, SECTIONS
from workbench.techniques.base import Control, Technique, families, family


def pages() -> dict[str, str]:
    """File name -> text. Deterministic."""
    return {"techniques.md": techniques(), "settings.md": settings(),
            "settings.schema.json": json.dumps(schema(), indent=1) + "\n"}


def techniques() -> str:
    """The catalogue: what each technique is, its source and claim, its controls."""
    lines = ["# Techniques", "", "Made from the techniques' own metadata; do not edit.", ""]
    for name in families():
        lines += [f"## {name}", ""]
        for technique in family(name).values():
            lines += _technique(technique)
    return "\n".join(lines)


def _technique(technique: type[Technique]) -> list[str]:
    paper, claim = technique.paper, technique.claim
    source = f"[{paper.cite}]({paper.url})" if paper.url else paper.cite
    lines = [f"### {technique.name()}", "", technique.summary(), "",
             f"- {'lossless' if technique.lossless else 'lossy'}; source: {source}"
             + (f", {paper.section}" if paper.section else "")]
    if claim.text:
        lines.append(f"- the source reports: {claim.text}"
                     + (f" ({claim.setup})" if claim.setup else ""))
    if technique.needs:
        lines.append(f"- needs: {', '.join(technique.needs)}")
    lines += [f"- not with {other}: {why}" for other, why in technique.excludes.items()]
    return [*lines, "", *_controls(technique.controls())]


def settings() -> str:
    """The settings that are not techniques, and how names work."""
    lines = ["# Settings", "", "Made from the settings' own metadata; do not edit.", "",
             "A path is `family`, `family.control` or `section.control`; a control's bare name works "
             "where only one owner has it.", "",
             "Families: " + ", ".join(f"`{n}` (default `{d}`)" for n, (_, d) in FAMILIES.items())
             + ". See [techniques.md](techniques.md).", ""]
    for name, section in SECTIONS.items():
        doc = (section.__doc__ or "").strip().split("\n")[0]
        lines += [f"## {name}", "", doc, "", *_controls(section.controls())]
    return "\n".join(lines)


def _controls(controls: list[Control]) -> list[str]:
    if not controls:
        return []
    rows = [f"| `{c.name}` | `{c.default}` | {_valid(c)} | {c.help} |" for c in controls]
    return ["| control | default | valid | what |", "|---|---|---|---|", *rows, ""]


def _valid(knob: Control) -> str:
    if knob.choices:
        return ", ".join(f"`{c}`" for c in knob.choices)
    if knob.type is bool:
        return "`true`, `false`"
    if knob.low is None and knob.high is None:
        return "text" if knob.type is str else knob.type.__name__
    unit = f" {knob.unit}" if knob.unit else ""
    return f"{_number(knob.low)} to {_number(knob.high)}{unit}"


def _number(value: Any) -> str:
    return "unbounded" if value is None else f"{value:g}"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main()
