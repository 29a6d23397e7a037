"""What was drafted, what the target kept of it, and where: from a run's events.

A verification is one :class:`workbench.events.Draft`; its tree is in ``parents`` (a chain says nothing) and
what survived in ``kept``. All functions are pure and take a live run's events as well as a finished one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from workbench import events as ev

#: Separates drafted tokens' texts in ``Draft.proposed``.
MARK = "␟"
#: Words of one kind of text each; the kind with most of them is the guess.
_SIGNS = {"code": ("def ", "class ", "import ", "return", "();", "function", "()", "```"),
          "math": ("compute", "how many", "how much", "step by step", "equation"),
          "list": ("sort", "reverse", "copy", "list:", "shuffle"),
          "summary": ("summar", "tl;dr", "headline"), "translation": ("translate", "in german", "in french"),
          "edit": ("rewrite", "correct", "replace", "repeat", "rename")}
_TURNS = ("user:", "assistant:")


@dataclass(frozen=True)
class Cell:
    """One token of the ribbon. ``state``: ``plain accepted rejected bonus``; ``depth`` in the draft, from
    1 (0: not drafted)."""

    text: str
    state: str
    depth: int = 0


@dataclass(frozen=True)
class Step:
    """One step of one sequence: its tokens in the order in which they were proposed, then the target's."""

    step: int
    t_s: float
    cells: tuple[Cell, ...]
    drafted: int = 0
    accepted: int = 0

    @property
    def text(self) -> str:
        """What the step gave."""
        return "".join(c.text for c in self.cells if c.state != "rejected")


@dataclass
class Depth:
    """At one depth of the drafts: ``nodes`` proposed, in ``tried`` verifications the walk got as far as
    their parent, and in ``kept`` of these one of them was right."""

    depth: int
    nodes: int = 0
    tried: int = 0
    kept: int = 0

    @property
    def rate(self) -> float | None:
        """Chance of being right when the place was reached."""
        return self.kept / self.tried if self.tried else None


@dataclass
class Tally:
    """Sums over verifications. ``plain``: forwards of a sequence without drafts after its prompt."""

    name: str
    verifications: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    plain: int = 0
    sequences: list[int] = field(default_factory=list)

    @property
    def acceptance(self) -> float | None:
        return self.accepted / self.drafted if self.drafted else None

    @property
    def accepted_length(self) -> float | None:
        """Tokens per verification, the target's own included."""
        return self.emitted / self.verifications if self.verifications else None

    @property
    def tokens_per_forward(self) -> float | None:
        """Over all forwards, also those that were not drafted for."""
        forwards = self.verifications + self.plain
        return (self.emitted + self.plain) / forwards if forwards else None


def drafts(events: Iterable[ev.Event], sequence: int | None = None) -> list[ev.Draft]:
    """The verifications, of one sequence or of all."""
    return [e for e in events if isinstance(e, ev.Draft) and sequence in (None, e.sequence)]


def parents(draft: ev.Draft) -> list[int]:
    """Each drafted token's predecessor among them, -1 for the root."""
    if draft.parents:
        return [int(p) for p in draft.parents.split(",")]
    return list(range(-1, draft.drafted - 1))


def kept(draft: ev.Draft) -> list[int]:
    """Places of the drafted tokens that stayed, from the first on."""
    if draft.parents:
        return [int(k) for k in draft.kept.split(",") if k][:draft.accepted]
    return list(range(draft.accepted))


def depths(above: Sequence[int]) -> list[int]:
    """Depth of every drafted token; those below the root have 1."""
    found: list[int] = []
    for parent in above:
        found.append(1 if parent < 0 else found[parent] + 1)
    return found


def ribbon(events: Iterable[ev.Event], sequence: int = 0) -> list[Step]:
    """Every step of a sequence after its prompt, in order."""
    listed = list(events)
    by_step = {d.step: d for d in drafts(listed, sequence)}
    given: dict[int, list[ev.Token]] = {}
    for event in listed:
        if isinstance(event, ev.Token) and event.sequence == sequence:
            given.setdefault(event.step, []).append(event)
    return [_step(step, tokens, by_step.get(step)) for step, tokens in sorted(given.items())]


def _step(step: int, tokens: Sequence[ev.Token], draft: ev.Draft | None) -> Step:
    own = [Cell(t.text, "bonus" if t.source == "bonus" else "plain") for t in tokens if t.source != "draft"]
    if draft is None:
        return Step(step, tokens[-1].t_s, tuple(own))
    words = draft.proposed.split(MARK) if draft.proposed else [""] * draft.drafted
    stayed = set(kept(draft))
    proposed = [Cell(word, "accepted" if place in stayed else "rejected", depth)
                for place, (word, depth) in enumerate(zip(words, depths(parents(draft)), strict=False))]
    return Step(step, draft.t_s, (*proposed, *own), draft.drafted, draft.accepted)


def by_depth(events: Iterable[ev.Event], sequence: int | None = None) -> list[Depth]:
    """Acceptance by place in the draft, from depth 1 on."""
    found: list[Depth] = []
    for draft in drafts(events, sequence):
        levels = depths(parents(draft))
        for level in range(len(found), max(levels, default=0)):
            found.append(Depth(level + 1))
        for level in levels:
            found[level - 1].nodes += 1
        way = kept(draft)
        above = parents(draft)
        at = -1
        for level in range(1, max(levels, default=0) + 1):
            if at not in above:  # nothing was drafted below what was kept
                break
            found[level - 1].tried += 1
            if len(way) < level:
                break
            found[level - 1].kept += 1
            at = way[level - 1]
    return found


def tally(events: Iterable[ev.Event], name: str, sequences: Sequence[int] | None = None) -> Tally:
    """Sums over these sequences (None: all)."""
    listed = list(events)
    found = Tally(name, sequences=list(sequences or ()))
    spoken: set[tuple[int, int]] = set()
    for draft in drafts(listed):
        if sequences is None or draft.sequence in sequences:
            found.verifications += 1
            found.drafted += draft.drafted
            found.accepted += draft.accepted
            found.emitted += draft.emitted
            spoken.add((draft.sequence, draft.step))
    first: set[int] = set()
    for token in listed:
        if not isinstance(token, ev.Token) or (sequences is not None and token.sequence not in sequences):
            continue
        if token.sequence not in first:  # the prompt's forward gave it
            first.add(token.sequence)
        elif (token.sequence, token.step) not in spoken:
            found.plain += 1
    return found


def by_kind(events: Iterable[ev.Event], prompts: Sequence[str]) -> list[Tally]:
    """One row per kind of prompt; ``prompts[b]`` is sequence b's."""
    listed = list(events)
    kinds: dict[str, list[int]] = {}
    for sequence, prompt in enumerate(prompts):
        kinds.setdefault(kind_of(prompt), []).append(sequence)
    return [tally(listed, kind, places) for kind, places in kinds.items()]


def kind_of(prompt: str) -> str:
    """A guess from its words: code, math, list, summary, translation, edit, chat or prose."""
    text = prompt.lower()
    scores = {kind: sum(sign in text for sign in signs) for kind, signs in _SIGNS.items()}
    best = max(scores, key=lambda kind: scores[kind])
    if scores[best]:
        return best
    return "chat" if any(turn in text for turn in _TURNS) else "prose"
