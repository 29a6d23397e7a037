"""Texts beside each other, prompt by prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench import analysis
from workbench.analysis.grouping import Group

if TYPE_CHECKING:
    from workbench.store import Run

#: Characters of a text that the page shows; the bundle has all of it.
SHOWN = 6000


def differences(base: Group, others: list[Group]) -> list[dict[str, Any]]:
    """For every other group its runs whose prompt the baseline also has."""
    found = []
    for g in others:
        pairs = [(mine, _same_prompt(base, mine)) for mine in g.runs]
        rows = [_pair(theirs, mine) for mine, theirs in pairs if theirs is not None]
        found.append({"label": g.label, "pairs": rows, "same": sum(r["diff"].same for r in rows),
                      "sampled": any(r["sampled"] for r in rows)})
    return found


def _same_prompt(base: Group, run: Run) -> Run | None:
    return next((r for r in base.runs if r.prompts == run.prompts), None)


def _pair(theirs: Run, mine: Run) -> dict[str, Any]:
    diff = analysis.textdiff(theirs, mine)
    return {"prompt": mine.prompt, "diff": diff, "left": _side(diff, "a"), "right": _side(diff, "b"),
            "sampled": bool(mine.settings_dict.get("sampling", {}).get("temperature", 0))}


def _side(diff: Any, which: str) -> list[tuple[str, str]]:
    """(op, text) pieces of one side, shortened."""
    left = SHOWN
    pieces: list[tuple[str, str]] = []
    for part in diff.parts:
        text = getattr(part, which)
        if text and left > 0:
            pieces.append((part.op, text[:left]))
            left -= len(text)
    if left < 0:
        pieces.append(("cut", " … shortened"))
    return pieces


def outputs(base: Group) -> list[tuple[str, str]]:
    """(prompt, text) of every run of the group."""
    return [(r.prompt, r.text[:SHOWN]) for r in base.runs]
