"""The forecast as the view shows it: time and energy with their doubt, memory per tier by use.

Beside a figure stands what the shown run measured, when it ran exactly these settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from workbench.forecast import Estimate, TierUse
    from workbench.session import Session
    from workbench.settings import Settings
    from workbench.store import Run

Json = dict[str, Any]
USES = ("weights", "kv", "activations", "draft", "workspace")
_TIERS = {"gpu": "GPU", "ram": "RAM", "disk": "Disk"}
_ROWS = {"tok_per_s": "speed", "tpot_s": "per token", "ttft_s": "first token",
         "j_per_token": "energy"}


def forecast_state(session: Session, settings: Settings | None = None, run: Run | None = None
                   ) -> Json:
    """JSON-ready: ``rows tiers basis notes error``; ``error`` is a sentence or empty."""
    try:
        found = session.forecast(settings)
    except WorkbenchError as error:
        return {"rows": [], "tiers": [], "notes": [], "basis": "", "error": str(error)}
    settings = settings or session.settings
    same = run is not None and run.status == "done" and run.requested == settings
    metrics = run.metrics if run is not None and same else {}
    # The forecast made before the run is judged: the present one has learned from it already.
    promised = session.forecast_of(run) if run is not None and same else None
    rows = [_row(name, getattr(found, name), metrics.get(name), getattr(promised, name, None))
            for name in _ROWS]
    return {"rows": rows, "tiers": [_tier(t) for t in found.tiers if t.total_bytes],
            "basis": found.tpot_s.basis, "error": found.misfit,
            "notes": [f"bound by {found.bound}", *found.notes]}


def _row(name: str, e: Estimate, measured: Any, promised: Estimate | None = None) -> Json:
    row = {"name": name, "label": _ROWS[name], "text": _text(e.value, e.unit), "range": "",
           "basis": e.basis, "reason": e.reason, "measured": ""}
    if e.value is not None and e.low is not None and e.high is not None:
        row["range"] = _range(_text(e.low, e.unit), _text(e.high, e.unit))
    if measured is not None and measured.value is not None:
        error = promised.error_of(measured.value) if promised is not None else None
        row["measured"] = _text(measured.value, e.unit) + (
            f", {100 * error:+.0f} % against the forecast before it" if error is not None else "")
    return row


def _range(low: str, high: str) -> str:
    """``14.6 to 29.5 tok/s``: the unit once when it is the same."""
    number, _, unit = low.partition(" ")
    return f"{number if high.endswith(' ' + unit) else low} to {high}"


def _text(value: float | None, unit: str) -> str:
    return format_seconds(value) if unit == "s" else format_number(value, unit)


def _tier(use: TierUse) -> Json:
    whole = max(use.total_bytes, 1)
    parts = [{"use": u, "text": format_bytes(size), "percent": round(100 * size / whole, 2)}
             for u in USES if (size := getattr(use, f"{u}_bytes"))]
    of = f" of {format_bytes(use.limit_bytes)}" if use.limit_bytes else ""
    return {"label": _TIERS.get(use.tier, use.tier), "parts": parts, "fits": use.fits,
            "text": format_bytes(use.total_bytes) + of, "why": ""}
