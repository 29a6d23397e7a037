"""Repeats of one configuration (other prompts, other seeds) as one: means with their spread."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from workbench import events as ev
from workbench.analysis.metrics import SPECS

#: Settings that may differ between repeats.
_FREE = ("seed", "quality")


class Grouped(Protocol):
    """What grouping needs of a run."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, ev.Metric]: ...
    @property
    def settings_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Group:
    """Runs of one configuration. Usable wherever a run's ``id label metrics`` are."""

    id: str
    label: str
    runs: tuple[Any, ...]
    metrics: dict[str, ev.Metric]


def group(runs: Sequence[Grouped]) -> list[Group]:
    """Groups in order of first appearance."""
    found: dict[str, list[Grouped]] = {}
    for run in runs:
        kept = {k: v for k, v in run.settings_dict.items() if k not in _FREE}
        found.setdefault(json.dumps(kept, sort_keys=True, default=str), []).append(run)
    return [Group(members[0].id, _label(members), tuple(members),
                  {name: mean(name, members) for name in SPECS}) for members in found.values()]


def _label(members: Sequence[Grouped]) -> str:
    """What the labels have before a colon when they agree there, else the first label."""
    heads = {m.label.partition(": ")[0] for m in members}
    return heads.pop() if len(members) > 1 and len(heads) == 1 else members[0].label


def mean(name: str, members: Sequence[Grouped]) -> ev.Metric:
    """The mean with the standard deviation in ``se``; a peak is the largest; one value is itself."""
    known = [m for r in members if (m := r.metrics.get(name)) is not None]
    values = [m.value for m in known if m.value is not None]
    if not values:
        reason = next((m.reason for m in known if m.reason), "not recorded")
        return ev.Metric(name=name, value=None, unit=SPECS[name].unit, reason=reason)
    first = next(m for m in known if m.value is not None)
    if len(values) == 1:
        return first
    guess = any(m.quality != "measured" for m in known if m.value is not None)
    peak = name.startswith("peak_")
    return ev.Metric(
        name=name, value=max(values) if peak else statistics.fmean(values), unit=first.unit,
        quality="estimated" if guess else "measured",
        reason=first.reason if guess else "",
        se=None if peak or name == "new_tokens" else statistics.stdev(values),
        badges=" · ".join(dict.fromkeys(m.badges for m in known if m.badges)))
