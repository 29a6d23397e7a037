"""Prompts of the bundled target, and one run of several of them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from workbench import zoo
from workbench.settings import Settings

#: Tokens of one text.
NEW = 20
SCHEDULES = ("ragged", "equal", "grouped")
SAMPLED = {"sampling.temperature": 0.9, "sampling.top_k": 40, "seed": 5}


def kinds(count: int) -> list[str]:
    """``count`` bundled prompts, of every kind in turn, of different lengths."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for prompt in zoo.prompts():
        by_kind[prompt.kind].append(prompt.text)
    turns = [texts[i] for i in range(3) for texts in by_kind.values()]
    return [t[-160 + 11 * i:] for i, t in enumerate(turns[:count])]


def run(model: Any, settings: Settings, prompts: list[str], **changes: Any) -> tuple[Any, list[Any]]:
    events: list[Any] = []
    chosen = settings.with_({"limits.batch": len(prompts), **changes})
    return model.generate(prompts, chosen, events.append, lambda: False), events
