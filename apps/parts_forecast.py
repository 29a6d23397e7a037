"""What to expect before pressing Run: memory per tier, time and energy per token, each with its doubt.

Redrawn when the settings change; the arithmetic takes a few milliseconds and no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.apps.markup import Markup, join, sentence, tag
from workbench.apps.offline import pn
from workbench.errors import WorkbenchError
from workbench.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from workbench.forecast import Estimate, Forecast, TierUse
    from workbench.session import Session
    from workbench.store import Run

_USES = {"weights": "weights", "kv": "KV cache", "activations": "activations", "draft": "draft",
         "workspace": "workspace"}
_TIERS = {"gpu": "GPU", "ram": "RAM", "disk": "disk"}
_TIMES = {"tpot_s": "time per token", "ttft_s": "first token after", "tok_per_s": "speed",
          "j_per_token": "energy per token"}


class ForecastPart:
    """The card beside the output."""

    def __init__(self) -> None:
        self.layout = pn.pane.HTML("", margin=0)
        self._key: tuple[Any, ...] = ()

    def draw(self, session: Session, run: Run | None = None) -> None:
        """Forecast of the current settings; beside it what the shown run measured, if it ran them."""
        key = (session.settings, session.machine.measured_on, run.id if run else "",
               run.status if run else "")
        if key == self._key:
            return
        self._key = key
        try:
            found: Markup = card(session.forecast(), measured(session, run),
                                 session.forecast_of(run) if run else None)
        except (WorkbenchError, ImportError) as error:
            found = sentence(str(error), "warning")
        self.layout.object = str(join([tag("h2", "Forecast", tag("span", "before the run",
                                                                 cls="label")), found]))


def measured(session: Session, run: Run | None) -> dict[str, Any]:
    """The run's metrics when it ran exactly these settings to its end."""
    if run is None or run.status != "done" or run.requested != session.settings:
        return {}
    return dict(run.metrics)


def card(forecast: Forecast, metrics: dict[str, Any], promised: Forecast | None = None) -> Markup:
    """Bars, then lines, then where the numbers come from. ``promised``: the forecast before the
    run that ``metrics`` are of; the present one has learned from it already."""
    parts: list[Any] = []
    if not forecast.fits:
        parts.append(sentence(forecast.misfit, "error"))
    parts += [tier(t) for t in forecast.tiers if t.total_bytes]
    used = [u for u in _USES if any(getattr(t, f"{u}_bytes") for t in forecast.tiers)]
    parts.append(tag("div", *[tag("span", tag("i", cls=f"key {u}"), _USES[u]) for u in used],
                     cls="keys"))
    parts += [line(name, getattr(forecast, name), metrics.get(name),
                   getattr(promised, name, None)) for name in _TIMES]
    parts.append(tag("div", f"bound by {forecast.bound}; {forecast.tpot_s.basis}", cls="help"))
    return join([*parts, *[tag("div", note, cls="help") for note in forecast.notes]])


def tier(use: TierUse) -> Markup:
    """One tier's bar; its length is the share of the tier, or the whole bar when that is tiny."""
    whole = max(use.total_bytes, 1)
    share = whole / use.limit_bytes if use.limit_bytes else 1.0
    parts = [tag("i", cls=name, style=f"width:{100 * getattr(use, f'{name}_bytes') / whole:.2f}%",
                 title=f"{_USES[name]} {format_bytes(getattr(use, f'{name}_bytes'))}")
             for name in _USES if getattr(use, f"{name}_bytes")]
    of = f" of {format_bytes(use.limit_bytes)} ({_percent(share)})" if use.limit_bytes else ""
    return tag("div", tag("div", tag("span", _TIERS.get(use.tier, use.tier)),
                          tag("span", tag("b", format_bytes(use.total_bytes)), of), cls="row"),
               tag("div", *parts, cls="bar"), cls="tier")


def line(name: str, estimate: Estimate, metric: Any, promised: Estimate | None = None) -> Markup:
    """A value with its range; what was measured, and by how much the forecast before it erred."""
    value = tag("span", tag("b", shown(name, estimate.value)), cls="num")
    if estimate.value is None:
        value = tag("span", "n/a ", tag("small", estimate.reason))
    between = None
    if estimate.low is not None and estimate.high is not None:
        between = tag("small", f" {shown(name, estimate.low)} to {shown(name, estimate.high)}",
                      cls="num")
    real = None
    if metric is not None and metric.value is not None:
        error = promised.error_of(metric.value) if promised is not None else None
        of = "" if promised is None or error is None else (
            f"; {shown(name, promised.value)} was forecast, {100 * error:+.0f} %")
        real = tag("div", f"measured {shown(name, metric.value)}{of}", cls="help num")
    return tag("div", tag("span", _TIMES[name]), tag("span", value, between, real, cls="right"),
               cls="fline")


def shown(name: str, value: float | None) -> str:
    if name.endswith("_s") and name != "tok_per_s":
        return format_seconds(value)
    return format_number(value, "tok/s" if name == "tok_per_s" else "J")


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{100 * share:.0f} %"
