"""What to expect before pressing Run: memory per tier, time and energy per token, each with its error."""

from __future__ import annotations

import panel as pn

from workbench.apps.markup import tag
from workbench.session import Session


class ForecastPart:
    def __init__(self) -> None:
        self.layout = pn.pane.HTML("", margin=0)

    def draw(self, session: Session) -> None:
        self.layout.object = str(tag("h2", "Forecast"))
