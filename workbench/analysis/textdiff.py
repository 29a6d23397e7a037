"""Two texts beside each other: where they part, and what differs.

Works on text, on token events, and on runs (anything with ``events``). With tokens the first
divergence is known to the token; sampled runs part early and legitimately, which the caller knows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workbench import events as ev
from workbench.analysis.metrics import streams

#: Pieces beyond which the middle is compared as one block: difflib's time grows with the square.
_MAX_PIECES = 4000
#: Characters from which a replaced piece is narrowed down to what differs inside it.
_LONG = 30


@dataclass(frozen=True)
class Part:
    """``op``: ``equal``, ``replace``, ``insert`` (only in b) or ``delete`` (only in a)."""

    op: str
    a: str
    b: str


@dataclass(frozen=True)
class TextDiff:
    """``char``: index of the first different character, None when the texts are the same.
    ``token``: index of the first different token, None when unknown or the same.
    ``line column`` count from 1."""

    a: str
    b: str
    same: bool
    char: int | None
    line: int | None
    column: int | None
    token: int | None
    similarity: float
    parts: tuple[Part, ...]

    @property
    def summary(self) -> str:
        """One sentence: what a reader wants to know first."""
        if self.same:
            return "The texts are identical."
        if self.char is None:
            return f"The texts read the same, but token {self.token} is another one."
        at = f"character {self.char}" if self.token is None else f"token {self.token}"
        return (f"The texts part at {at} (line {self.line}, column {self.column}); "
                f"{100 * self.similarity:.0f} % of the words agree.")


def textdiff(a: Any, b: Any) -> TextDiff:
    """Compare two texts, two lists of events, or two runs (their first sequences)."""
    (text_a, tokens_a), (text_b, tokens_b) = _read(a), _read(b)
    token = None
    if tokens_a is not None and tokens_b is not None:
        token = first_difference(tokens_a, tokens_b)
    char = first_difference(text_a, text_b)
    line = column = None
    if char is not None:
        before = text_a[:char]
        line = before.count("\n") + 1
        column = char - (before.rfind("\n") + 1) + 1
    parts, similarity = _parts(text_a, text_b)
    return TextDiff(text_a, text_b, char is None and token is None, char, line, column, token,
                    similarity, parts)


def first_difference(a: Any, b: Any) -> int | None:
    """Index of the first different element of two sequences; None when they are equal."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


def _read(side: Any) -> tuple[str, list[int] | None]:
    if isinstance(side, str):
        return side, None
    events: Iterable[ev.Event] = side.events if hasattr(side, "events") else side
    tokens = streams(events).get(0, [])
    return "".join(t.text for t in tokens), [t.id for t in tokens]


def _parts(a: str, b: str) -> tuple[tuple[Part, ...], float]:
    x, y = re.findall(r"\s+|\w+|[^\w\s]", a), re.findall(r"\s+|\w+|[^\w\s]", b)
    head = first_difference(x, y)
    if head is None:
        return ((Part("equal", a, b),) if a else ()), 1.0
    found = [Part("equal", "".join(x[:head]), "".join(y[:head]))] if head else []
    same = head
    rest_x, rest_y = x[head:], y[head:]
    if max(len(rest_x), len(rest_y)) > _MAX_PIECES:
        found += _parts_of("replace", rest_x, rest_y)
        return tuple(found), 2 * same / (len(x) + len(y))
    matcher = difflib.SequenceMatcher(None, rest_x, rest_y, autojunk=False)
    for op, i, j, k, m in matcher.get_opcodes():
        found += _parts_of(op, rest_x[i:j], rest_y[k:m])
        same += (j - i) if op == "equal" else 0
    return tuple(found), 2 * same / max(1, len(x) + len(y))


def _parts_of(op: str, x: list[str], y: list[str]) -> list[Part]:
    """One part, or three where long replaced pieces begin or end alike."""
    a, b = "".join(x), "".join(y)
    if not a or not b:
        return [Part("insert" if b else "delete", a, b)]
    if op == "equal" or min(len(a), len(b)) < _LONG:
        return [Part(op, a, b)]
    head = first_difference(a, b) or 0
    tail = min(first_difference(a[head:][::-1], b[head:][::-1]) or 0, min(len(a), len(b)) - head)
    end_a, end_b = len(a) - tail, len(b) - tail
    middle = (a[head:end_a], b[head:end_b])
    kind = "replace" if all(middle) else "insert" if middle[1] else "delete"
    parts = [Part("equal", a[:head], b[:head]), Part(kind, *middle),
             Part("equal", a[end_a:], b[end_b:])]
    return [p for p in parts if p.a or p.b]
