"""The live charts: which events each one needs, and its figure from the events so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench import events as ev
from workbench.analysis.live import Live

Figure = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """One chart of the view. ``needs``: the event types that change it."""

    name: str
    title: str
    needs: tuple[type[ev.Event], ...]
    draw: Callable[[list[ev.Event]], Figure]


def _speed(events: list[ev.Event]) -> Figure:
    from workbench import analysis, charts

    return charts.tokens_per_second(analysis.tokens(events))


def _kernels(events: list[ev.Event]) -> Figure:
    from workbench import analysis, charts

    why = next((e.reason for e in reversed(events)
                if isinstance(e, ev.KernelWindow) and e.reason), "")
    return charts.kernels_by_phase(analysis.kernels(events), reason=why)


def _memory(events: list[ev.Event]) -> Figure:
    from workbench import analysis, charts

    return charts.memory_by_tier(analysis.memory(events))


def _power(events: list[ev.Event]) -> Figure:
    from workbench import analysis, charts

    return charts.power(analysis.power(events), analysis.sensors(events))


def _acceptance(events: list[ev.Event]) -> Figure:
    from workbench import analysis, charts

    return charts.acceptance(analysis.drafts(events))


CHARTS: tuple[Chart, ...] = (
    Chart("speed", "Tokens per second", (ev.Token,), _speed),
    Chart("kernels", "Kernels by phase", (ev.Kernel, ev.KernelWindow), _kernels),
    Chart("memory", "Memory per tier", (ev.Memory,), _memory),
    Chart("power", "Power", (ev.Power, ev.SensorStatus), _power),
    Chart("acceptance", "Draft acceptance", (ev.Draft,), _acceptance),
)


class Figures:
    """Figures of one run, each computed again only when events that it shows have come."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._figures: dict[str, Figure] = {}

    def update(self, live: Live) -> dict[str, Figure]:
        """name -> figure, for the charts that changed since the last call."""
        changed: dict[str, Figure] = {}
        for chart in CHARTS:
            count = live.count(*chart.needs)
            if self._counts.get(chart.name) == count:
                continue
            self._counts[chart.name] = count
            if chart.name == "acceptance" and not count:
                changed[chart.name] = {}
                continue
            changed[chart.name] = chart.draw(live.of(*chart.needs))
        self._figures |= changed
        return changed

    @property
    def current(self) -> dict[str, Figure]:
        return dict(self._figures)
