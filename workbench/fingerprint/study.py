"""Which configurations can be told apart here, how surely, and which are the same to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.errors import SettingsError
from workbench.fingerprint import features
from workbench.fingerprint.classifier import Accuracy, held_out
from workbench.fingerprint.collect import Collected, bits

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Task:
    """One question with several answers, each a group of configurations with the same bits.

    ``blind``: from unseen prompts' logits alone; ``informed``: with the reference's logits of the same
    prompts; ``control``: as blind, with shuffled training labels. ``by_group``: group -> share of its
    samples named rightly (blind, informed). ``confused``: (true, said, share) of the informed
    classifier's commonest mistakes."""

    question: str
    groups: list[str]
    blind: Accuracy
    informed: Accuracy
    control: Accuracy
    by_group: dict[str, tuple[float, float]] = field(default_factory=dict)
    confused: list[tuple[str, str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """``groups``: configurations with the same bits on every prompt. ``tokens``: pair of groups ->
    prompts whose likeliest next token differs."""

    groups: list[list[str]]
    reference: str
    prompts: int
    tasks: list[Task] = field(default_factory=list)
    tokens: dict[tuple[str, str], int] = field(default_factory=dict)


def twins(logits: dict[str, np.ndarray]) -> list[list[str]]:
    """Names grouped by bit-identical logits on all prompts."""
    groups: list[list[str]] = []
    for name, values in logits.items():
        for group in groups:
            if (bits(logits[group[0]]) == bits(values)).all():
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def study(found: Collected, reference: str = "weights=fp32") -> Study:
    """Raises SettingsError with fewer than ten prompts: nothing could be held out."""
    if len(found.prompts) < 10:
        raise SettingsError(f"{len(found.prompts)} prompts are too few to hold some out; use 10 or more")
    groups = twins(found.logits)
    base = reference if reference in found.logits else next(iter(found.logits))
    tokens = token_differences(found, groups)
    tasks = [t for question, names in questions(found).items()
             if (t := _task(question, names, found, groups, base)) is not None]
    return Study(groups, base, len(found.prompts), tasks, tokens)


def questions(found: Collected) -> dict[str, list[str]]:
    """Question -> the configurations that answer it: formats in their plain execution, then the
    executions of each format."""
    plain = [n for n in found.logits if not found.configs[n].special]
    asked = {"Which number format?": plain}
    for name in plain:
        same = [n for n in found.logits if found.configs[n].changes == found.configs[name].changes]
        if len(same) > 1:
            asked[f"Which execution of {name}?"] = same
    return {q: names for q, names in asked.items() if len(names) > 1}


def _task(question: str, names: list[str], found: Collected, groups: list[list[str]], base: str
          ) -> Task | None:
    """None when all of its configurations have the same bits."""
    import numpy as np

    chosen = [[n for n in g if n in names] for g in groups]
    chosen = [g for g in chosen if g]
    if len(chosen) < 2:
        return None
    values = [found.logits[g[0]] for g in chosen]
    y = np.repeat(np.arange(len(chosen)), len(found.prompts))
    prompt = np.tile(np.arange(len(found.prompts)), len(chosen))
    plain = np.concatenate([features.black_box(v) for v in values])
    rich = np.concatenate([features.with_reference(v, found.logits[base]) for v in values])
    blind, blind_table = held_out(plain, y, prompt, len(chosen))
    informed, table = held_out(rich, y, prompt, len(chosen))
    control, _ = held_out(plain, y, prompt, len(chosen), shuffle=1)
    labels = [" = ".join(g) for g in chosen]
    by_group = {n: (_share(blind_table, i), _share(table, i)) for i, n in enumerate(labels)}
    return Task(question, labels, blind, informed, control, by_group, _mistakes(table, labels))


def _share(table: Any, i: int) -> float:
    return float(table[i, i] / max(1, table[i].sum()))


def _mistakes(table: Any, names: Sequence[str]) -> list[tuple[str, str, float]]:
    found = [(names[i], names[j], float(table[i, j] / max(1, table[i].sum())))
             for i in range(len(names)) for j in range(len(names)) if i != j and table[i, j]]
    return sorted(found, key=lambda m: -m[2])[:6]


def token_differences(found: Collected, groups: list[list[str]]) -> dict[tuple[str, str], int]:
    """Pair of groups -> prompts whose likeliest next token differs: text alone tells those apart."""
    chosen = {" = ".join(g): found.logits[g[0]].argmax(1) for g in groups}
    names = list(chosen)
    return {(a, b): int((chosen[a] != chosen[b]).sum())
            for i, a in enumerate(names) for b in names[i + 1:]}
