"""The line at the top: model, machine, engine, queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.apps.markup import Markup, tag
from workbench.apps.offline import pn
from workbench.units import format_bytes

if TYPE_CHECKING:
    from workbench.apps.hub import Hub
    from workbench.machine import Machine
    from workbench.session import Session
    from workbench.store import Run

_COLOURS = {"running": "live", "replaying": "live", "loading": "busy", "starting": "busy",
            "evaluating": "busy", "dead": "error"}


class Status:
    """One line of facts."""

    def __init__(self) -> None:
        self.layout = pn.pane.HTML("", margin=0)

    def draw(self, session: Session, hub: Hub, run: Run | None, position: int | None) -> None:
        state = session.state
        waiting = hub.waiting()
        text = str(tag(
            "div", tag("span", _model(session), cls="fact"),
            tag("span", machine_line(session.machine), cls="fact wide"),
            tag("span", tag("i", cls=f"dot {_COLOURS.get(state, '')}"), f"engine {state}",
                cls="fact"),
            tag("span", f"queue {waiting}" + (f", yours is {position}" if position else ""),
                cls="fact") if waiting else None,
            cls="facts"))
        if self.layout.object != text:
            self.layout.object = text


def _model(session: Session) -> Markup:
    shape = session.shape
    size = f"{shape.parameters / 1e6:,.0f} M parameters, {shape.layers} layers" if shape else ""
    return tag("span", tag("b", session.model), f" {size}" if size else None)


def machine_line(machine: Machine) -> str:
    """Processor or GPU and its memory."""
    if machine.gpus:
        gpu = machine.gpus[0]
        more = f" (one of {len(machine.gpus)})" if len(machine.gpus) > 1 else ""
        return f"{gpu.name}{more}, {format_bytes(gpu.memory_bytes)}"
    return f"{machine.cpu}, {machine.cores} cores, {format_bytes(machine.memory_bytes)}"
