"""The model's text as it arrives, coloured by where each token came from.

Untrusted from the first character to the last: everything goes through ``markup``.
"""

from __future__ import annotations

from workbench.apps.markup import Markup, join, sentence, tag
from workbench.apps.offline import pn
from workbench.events import Event, Token
from workbench.store import Run

#: Characters of output that the page keeps; the rest is in the run's bundle.
_SHOWN = 24_000
STATUS = {"done": "good", "failed": "error", "interrupted": "error", "cancelled": "warning",
          "running": "live"}
_SOURCES = {"plain": "target", "draft": "drafted and accepted", "bonus": "target after a draft"}


class Stream:
    """Pieces of text by sequence; neighbours from one source are one piece."""

    def __init__(self) -> None:
        self.pieces: dict[int, list[tuple[str, list[str]]]] = {}
        self.sources: set[str] = set()
        self.tokens = 0

    def feed(self, events: list[Event]) -> bool:
        """Whether there was a token among them."""
        before = self.tokens
        for event in events:
            if isinstance(event, Token):
                self.tokens += 1
                self.sources.add(event.source)
                line = self.pieces.setdefault(event.sequence, [])
                if line and line[-1][0] == event.source:
                    line[-1][1].append(event.text)
                else:
                    line.append((event.source, [event.text]))
        return self.tokens != before

    def text(self, sequence: int = 0) -> str:
        return "".join("".join(parts) for _, parts in self.pieces.get(sequence, []))

    def markup(self, prompt: str, caret: bool) -> Markup:
        """Prompt, then each sequence's text; a caret while it streams."""
        several = len(self.pieces) > 1
        blocks = []
        for number, line in sorted(self.pieces.items()) or [(0, [])]:
            spans = [tag("span", text, cls=f"t {source}") for source, text in _tail(line)]
            head = tag("div", f"sequence {number + 1}", cls="seq") if several else None
            blocks.append(join([head, tag("span", prompt, cls="t prompt") if not several else None,
                                *spans, tag("span", cls="caret") if caret else None]))
        return join([tag("div", block, cls="text") for block in blocks])


class Output:
    """The card with the text, its legend and what happened to the run."""

    def __init__(self) -> None:
        self._head = pn.pane.HTML("", margin=0)
        self._body = pn.pane.HTML("", margin=0, css_classes=["wb-output"])
        self.layout = pn.Column(self._head, self._body, margin=0)
        self._stream = Stream()

    def reset(self) -> None:
        self._stream = Stream()

    def feed(self, events: list[Event]) -> bool:
        return self._stream.feed(events)

    def draw(self, run: Run | None, note: str = "") -> None:
        """Show the run; ``note`` is one sentence, e.g. its place in the queue."""
        if run is None:
            self._head.object = str(tag("h2", "Output"))
            self._body.object = str(tag("div", "Choose settings, write a prompt and press Run. "
                                        "The first finished run becomes the baseline.", cls="empty"))
            return
        self._head.object = str(join([
            tag("h2", "Output", tag("span", run.label, cls="label"), _status(run)),
            legend(self._stream.sources)]))
        parts = [sentence(note) if note else None, _ending(run)]
        if run.status == "queued" and not self._stream.tokens:
            parts.append(tag("div", tag("span", _prompt(run), cls="t prompt"), cls="text"))
        else:
            parts.append(self._stream.markup(_prompt(run), caret=run.status == "running"))
        # Laid out from the bottom, so that the newest words stay in sight while it streams.
        self._body.object = str(tag("div", tag("div", join(parts)), cls="roll"))


def legend(sources: set[str]) -> Markup | None:
    """What the colours mean; only when there is more than one."""
    if not sources - {"plain"}:
        return None
    return tag("div", *[tag("span", tag("i", cls=f"swatch {s}"), what)
                        for s, what in _SOURCES.items() if s in sources], cls="legend")


def _status(run: Run) -> Markup:
    return tag("span", run.status, cls=f"chip {STATUS.get(run.status, '')}")


def _ending(run: Run) -> Markup | None:
    if run.status == "failed":
        return sentence(run.error or "the run failed", "error")
    if run.status == "interrupted":
        return sentence("The server stopped during this run; what it had recorded is here.", "error")
    if run.status == "cancelled":
        return sentence("Cancelled; what was generated is kept.", "warning")
    return None


def _prompt(run: Run) -> str:
    return "\n".join(dict.fromkeys(run.prompts))


def _tail(line: list[tuple[str, list[str]]]) -> list[tuple[str, str]]:
    """The last characters of a long text, so that a frame stays small."""
    pieces = [(source, "".join(parts)) for source, parts in line]
    left, kept = _SHOWN, []
    for source, text in reversed(pieces):
        if left <= 0:
            kept.append(("cut", "… "))
            break
        kept.append((source, text[-left:]))
        left -= len(text)
    return kept[::-1]
