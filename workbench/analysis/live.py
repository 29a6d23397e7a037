"""What a view needs of a run while it runs: events go in as they come, state can be read any time.

Incremental, so that a view that looks four times a second does the work of what is new only. The
same object serves a live run, a recorded one and a replay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from workbench import events as ev

E = TypeVar("E", bound=ev.Event)


@dataclass
class Live:
    """State of one run, built by :meth:`feed`.

    ``pieces``: sequence -> [source, text, step] in order; neighbours of plain decoding are merged,
    drafted tokens stay apart by step, so that a view can draw what one verification brought."""

    pieces: dict[int, list[tuple[str, str, int]]] = field(default_factory=dict)
    tokens: int = 0
    prompt_tokens: int = 0
    phase: str = ""
    progress: ev.Progress | None = None
    notes: list[ev.Note] = field(default_factory=list)
    effective: dict[str, ev.Effective] = field(default_factory=dict)
    ended: ev.RunEnded | None = None
    _by_type: dict[type[ev.Event], list[ev.Event]] = field(
        default_factory=lambda: defaultdict(list))

    def feed(self, events: Iterable[ev.Event]) -> set[type[ev.Event]]:
        """Take new events in; returns the types that came."""
        seen: set[type[ev.Event]] = set()
        for event in events:
            kind = type(event)
            seen.add(kind)
            self._by_type[kind].append(event)
            self._take(event)
        return seen

    def _take(self, event: ev.Event) -> None:
        match event:
            case ev.Token():
                self._token(event)
            case ev.Phase():
                self.phase = event.phase
            case ev.Progress():
                self.progress = event
            case ev.Note():
                self.notes.append(event)
            case ev.Effective():
                self.effective[event.path] = event
            case ev.RunStarted():
                self.prompt_tokens = event.prompt_tokens
            case ev.RunEnded():
                self.ended, self.progress = event, None

    def _token(self, token: ev.Token) -> None:
        self.tokens += 1
        pieces = self.pieces.setdefault(token.sequence, [])
        if not token.text:
            return
        step = 0 if token.source == "plain" else token.step
        if pieces and pieces[-1][0] == token.source and pieces[-1][2] == step:
            source, text, _ = pieces[-1]
            pieces[-1] = (source, text + token.text, step)
        else:
            pieces.append((token.source, token.text, step))

    def text(self, sequence: int = 0) -> str:
        """The new text of one sequence so far."""
        return "".join(text for _, text, _ in self.pieces.get(sequence, []))

    def count(self, *types: type[ev.Event]) -> int:
        """How many events of these types came: cheap, tells whether a chart is out of date."""
        return sum(len(self._by_type[t]) for t in types if t in self._by_type)

    def of(self, *types: type[ev.Event]) -> list[ev.Event]:
        """The events of these types, type by type, each in order of arrival."""
        return [e for t in types if t in self._by_type for e in self._by_type[t]]

    def last(self, kind: type[E]) -> E | None:
        """The newest event of one type."""
        found = self._by_type.get(kind)
        return found[-1] if found else None  # type: ignore[return-value]
