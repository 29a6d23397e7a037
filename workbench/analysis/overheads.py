"""A request's wait by stage: what is inference and what surrounds it. Measured, never inferred.

After "Beyond Inference" (arXiv:2403.12981). The stages are exclusive of one another, so their sum is
the time from the request to its last event at the client; what no stage covers in the engine is shown
as its own row. Waiting for weights to arrive is taken out of the forward that waited for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench import events as ev

#: Stage -> how it reads.
SAID = {
    "record and forecast": "checking settings, opening the record, forecasting",
    "queue": "waiting in the queue (for other runs, or for the engine to start)",
    "start of the engine": "starting the engine", "wire and inbox": "messages there and back",
    "load": "loading and preparing the model", "idle power": "measuring idle power",
    "tokenize": "tokenizing the prompt", "set up": "making cache and drafter",
    "prefill": "the prompt's forward", "forward": "the decode forwards", "draft": "drafting",
    "sampling": "choosing tokens (on a GPU: and waiting for its logits)",
    "detokenize": "turning tokens into text", "events": "reporting events",
    "reports": "reading back settings and memory",
    "telemetry": "kernel windows and meters", "weights": "standing still for weights to arrive",
    "other": "host work between the stages",
    "the engine ended without a report": "the engine ended without a report",
}
#: Order in time.
_ORDER = list(SAID)


@dataclass(frozen=True)
class Stage:
    """Seconds of one stage. ``model``: inference itself."""

    name: str
    where: str
    seconds: float
    calls: int
    model: bool

    @property
    def said(self) -> str:
        return SAID.get(self.name, self.name)


@dataclass(frozen=True)
class Request:
    """``stages`` in order of time; they sum to ``seconds``."""

    stages: tuple[Stage, ...]
    seconds: float
    tokens: int

    @property
    def model_s(self) -> float:
        return sum(s.seconds for s in self.stages if s.model)

    @property
    def served_s(self) -> float:
        """Without what only the first request pays or other runs cause: queue, engine start, load."""
        return self.seconds - sum(s.seconds for s in self.stages if s.name in ONCE)


#: Stages of a cold or busy system.
ONCE = ("queue", "start of the engine", "load", "idle power")


def request(events: Iterable[ev.Event]) -> Request | None:
    """None for runs that were recorded without stages."""
    events = list(events)
    found: dict[tuple[str, str], Stage] = {}
    for e in events:
        if isinstance(e, ev.Overhead):
            known = found.get((e.what, e.where))
            found[e.what, e.where] = Stage(
                e.what, e.where, e.seconds + (known.seconds if known else 0.0),
                e.calls + (known.calls if known else 0), e.model)
    if not found:
        return None
    stages = _waits_apart(list(found.values()), events)
    stages.sort(key=lambda s: _ORDER.index(s.name) if s.name in SAID else len(_ORDER))
    return Request(tuple(stages), sum(s.seconds for s in stages),
                   sum(isinstance(e, ev.Token) for e in events))


def _waits_apart(stages: list[Stage], events: list[ev.Event]) -> list[Stage]:
    """Moves what the forwards stood still for transfers into a stage of its own."""
    from dataclasses import replace

    waited = sum(e.waited_s for e in events if isinstance(e, ev.Transfer))
    moved = 0.0
    for i, stage in enumerate(stages):
        if stage.name in ("forward", "prefill") and waited - moved > 0:
            part = min(stage.seconds, waited - moved)
            stages[i] = replace(stage, seconds=stage.seconds - part)
            moved += part
    if moved:
        stages.append(Stage("weights", "engine", moved,
                            sum(isinstance(e, ev.Transfer) for e in events), False))
    return stages
