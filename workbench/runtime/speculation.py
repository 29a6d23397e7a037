"""Decoding with drafts: propose for every sequence, verify in one forward, keep what the target confirms.

Sequences of a batch accept different numbers of tokens. Sequence b's tokens lie in the columns from its
padding on, so its next row goes to column ``pads[b] + len(ids) - 1``; a plain step is the empty tree. Three
schedules (``decoding.schedule``) deal with the different lengths:

    ragged    nothing moves; every row knows its own column, position and context
    equal     EQSPEC (Zhang et al. 2025, arXiv:2510.22876): after each step every sequence's cache is moved
              to the right until all end at one column, with fresh padding at the left
    grouped   EXSPEC (same paper): a step takes the largest group of sequences that end at one column, so
              that nothing has to move; when no two do, all are realigned as in EQSPEC
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any

import torch

from workbench.events import Draft, Note
from workbench.runtime import ragged
from workbench.runtime.draft_length import Lengths
from workbench.runtime.loop import Loop, Sequence
from workbench.runtime.pays import Pays
from workbench.runtime.spans import span
from workbench.runtime.states import attach
from workbench.runtime.verify import depths, walk
from workbench.techniques.decoding import Drafters, Proposal

if TYPE_CHECKING:
    from workbench.techniques.decoding import Decoding

#: Separates drafted tokens' texts in the ribbon.
_MARK = "␟"
#: Steps that a sequence waits at most for its turn (``grouped``).
_PATIENCE = 8


class SpeculativeLoop(Loop):
    """``drafters`` propose; ``choice`` is the technique, whose ``length``, ``fallback`` and ``schedule``
    say how (a technique without them: fixed, on, ragged)."""

    def __init__(self, *args: Any, drafters: Drafters, choice: Decoding, **options: Any) -> None:
        super().__init__(*args, **options)
        self.drafters = drafters
        # Where other drafts would give another text, what is drafted must not depend on a clock.
        changes = not choice.lossless or (
            not self.sampler.greedy and getattr(choice, "drafts_change_text", lambda: False)())
        self.choice_fallback = getattr(choice, "fallback", True)
        self.choice_auto = getattr(choice, "length", "fixed") == "auto"
        self.pays = Pays(self.choice_fallback and not changes)
        many, self.rows = len(self.sequences), choice.rows()
        self.lengths = Lengths(self.rows - 1, many) if self.choice_auto and not changes else None
        self.wanted = getattr(choice, "schedule", "ragged")
        self.align = self.wanted if self.cache.movable or many == 1 else "ragged"
        self.turns = self.realigned = 0
        self.realign_s = self.decode_s = self.draft_s = 0.0
        self.plain_steps = 0
        self._samplers = [self.sampler.of(s.index) for s in self.sequences]
        self._waited = [0] * many
        self._kept: dict[int, int] = {}
        attach(self)

    def mean_accepted(self) -> float:
        return self.emitted / self.turns if self.turns else 1.0

    def prefill(self) -> None:
        super().prefill()
        if self.align == "equal" and self.active:
            self.realign()

    def says(self) -> dict[str, str]:
        return self.drafters.says()

    # -- one step ---------------------------------------------------------------------------------

    def advance(self) -> None:
        began, before = self.clock(), self.emitted
        drafting = self.pays.draft(len(self.active))
        if drafting:
            self._draft_and_verify(began)
        else:
            self._make_room(1)
            self.plain_steps += 1
            self.turns += len(self.active)
            super().advance()
        step_s = self.clock() - began
        self.decode_s += step_s
        self.told(drafting, step_s, self.emitted - before)

    def _draft_and_verify(self, began: float) -> None:
        before, drafted_s = self.emitted, self.draft_s
        which = self.turn()
        proposals = self.propose(which)
        rows = sum(1 + len(p.tokens) for p in proposals)
        parts, started = self.verify(which, proposals)
        self.settle(which, proposals, parts, started, rows)
        self.learn(which, parts)
        self._retire()
        if self.lengths is not None:
            self.lengths.stepped(rows, self._last_s, rows - len(which), self.draft_s - drafted_s,
                                 self.clock() - began, self.emitted - before)

    def _retire(self) -> None:
        for sequence in self.active:
            if sequence.ended:
                self.drafters.drop(sequence.index)
        super()._retire()

    def told(self, drafting: bool, seconds: float, tokens: int) -> None:
        """Let the rule see a step; a change of its mind is an event."""
        news = self.pays.told(drafted=drafting, seconds=seconds, tokens=tokens)
        if news:
            self.emit(Note(t_s=self.clock(), text=news))

    # -- draft --------------------------------------------------------------------------------------

    def propose(self, which: Items[int]) -> list[Proposal]:
        """What to verify besides each sequence's last token."""
        chosen = [self.active[i] for i in which]
        budgets = [max(0, self.max_new - s.new - 1) for s in chosen]
        limits = [1 << 30 if self.lengths is None else self.lengths.of(s.index) for s in chosen]
        started = self.clock()
        with span("telemetry"):
            self.monitor.before("draft", self.step, max(budgets))
        with span("draft", model=True):
            found = self.drafters.propose([s.index for s in chosen], [s.ids for s in chosen], budgets, limits)
        with span("telemetry"):
            self.monitor.after("draft", self.step, sum(len(p.tokens) for p in found))
        if any(budgets):
            self.draft_s += self._phase("draft", started, sum(len(p.tokens) for p in found), 0)
        return found

    def learn(self, which: Items[int], parts: list[torch.Tensor]) -> None:
        """Tell the drafters what came of their proposals."""
        with span("draft", model=True):
            for i, logits in zip(which, parts, strict=True):
                sequence = self.active[i]
                if not sequence.ended:
                    self.drafters.observe(sequence.index, sequence.ids, self._kept[i], logits)

    # -- verify -------------------------------------------------------------------------------------

    def verify(self, which: Items[int], proposals: list[Proposal]) -> tuple[list[torch.Tensor], float]:
        """One forward over these sequences' last tokens and drafts -> each one's logits [rows, V]."""
        bases = self.bases(which)
        deep = [[0, *depths(p.parents)] for p in proposals]
        ids = [[self.active[i].ids[-1], *p.tokens] for i, p in zip(which, proposals, strict=True)]
        places = [[len(self.active[i].ids) - 1 + d for d in own]
                  for i, own in zip(which, deep, strict=True)]
        phase = "verify" if any(p.tokens for p in proposals) else "decode"
        total = sum(map(len, ids))
        if self._one_shape(which, bases, proposals):
            return self._rectangle(phase, total, ids, places, proposals[0], deep[0])
        rows = self.masks.ragged(list(which), bases, [p.parents for p in proposals])
        return self.run_rows(phase, total, lambda: ragged.run(self.forward, rows, ids, places, self.cache))

    def _one_shape(self, which: Items[int], bases: list[int], proposals: list[Proposal]) -> bool:
        """All sequences, at one column, with trees of one shape: rows that need no bookkeeping."""
        return len(which) == len(self.active) and self._level(bases) and all(
            p.parents == proposals[0].parents for p in proposals)

    def _rectangle(self, phase: str, total: int, ids: list[list[int]], places: list[list[int]],
                   tree: Proposal, deep: list[int]) -> tuple[list[torch.Tensor], float]:
        mask = self.masks.tree(self.cache.length, tree.parents, deep[1:])
        if len(ids[0]) == 1:
            tokens, positions = self._last_tokens()
        else:
            tokens, positions = torch.tensor([ids, places]).to(self.forward.device)
        n = len(ids[0])
        logits, started = self.run_rows(
            phase, total, lambda: self.forward(tokens, positions, mask, self.cache, n))
        return list(logits), started

    def settle(self, which: Items[int], proposals: list[Proposal], parts: list[torch.Tensor],
               started: float, rows: int) -> None:
        """Keep what the target confirms, forget the rest, tell everybody."""
        bases = self.bases(which)
        found = self._walks(which, proposals, parts)
        kept = [rows_[:len(tokens)] for rows_, tokens in found]
        if len(self.active) == 1:
            self.cache.keep(bases[0], kept[0])
        else:
            self.cache.keep_each(which, bases, kept)
        tokens = sum(len(t) for _, t in found)
        drafted = any(p.tokens for p in proposals)
        self._last_s = self._phase("verify" if drafted else "decode", started, rows, tokens)
        self.turns += len(which)
        self.emitted += tokens
        self._kept = {}
        for i, proposal, (walked, own) in zip(which, proposals, found, strict=True):
            self._commit(i, proposal, walked, own, (1 + len(proposal.tokens)) / rows)
        self._align()

    def _walks(self, which: Items[int], proposals: list[Proposal], parts: list[torch.Tensor]
               ) -> list[tuple[list[int], list[int]]]:
        """Accepted rows and the tokens that they give, cut at a sequence's end."""
        with span("sampling"):
            found = []
            for i, proposal, logits in zip(which, proposals, parts, strict=True):
                sequence = self.active[i]
                rows, tokens = walk(proposal, logits, len(sequence.ids), self._samplers[sequence.index])
                found.append((rows, self._until_end(sequence, tokens)))
        return found

    def _commit(self, i: int, proposal: Proposal, rows: list[int], tokens: list[int], share: float) -> None:
        sequence, drafted = self.active[i], len(proposal.guesses)
        accepted = min(len(rows) - 1, len(tokens))
        self._kept[i] = accepted
        self._append(sequence, tokens, accepted=len(rows) - 1, own="bonus" if drafted else "plain")
        if not drafted:
            return
        self.verifications += 1
        self.drafted += drafted
        self.accepted += accepted
        if self.lengths is not None:
            self.lengths.verified(sequence.index, drafted, [r - 1 for r in rows[1:]])
        self.emit(Draft(
            t_s=self.clock(), step=self.step, drafted=drafted, accepted=accepted, emitted=len(tokens),
            rows=1 + len(proposal.tokens), draft_s=proposal.seconds, verify_s=self._last_s * share,
            sequence=sequence.index, proposed=_MARK.join(self.piece(t) for t in proposal.guesses),
            **_shape(proposal, rows)))

    def _until_end(self, sequence: Sequence, tokens: list[int]) -> list[int]:
        """Cut at the first stop token (kept) and at the length limit."""
        tokens = tokens[:self.max_new - sequence.new]
        for i, token in enumerate(tokens):
            if token in self.stops:
                return tokens[:i + 1]
        return tokens

    # -- different lengths ----------------------------------------------------------------------------

    def turn(self) -> list[int]:
        """The sequences of the next step."""
        everybody = list(range(len(self.active)))
        if self.align != "grouped":
            return everybody
        self._make_room(self.rows)
        groups: dict[int, list[int]] = {}
        for i, base in zip(everybody, self.bases(everybody), strict=True):
            groups.setdefault(base, []).append(i)
        late = [g for g in groups.values() if any(self._waited[self.active[i].index] >= _PATIENCE for i in g)]
        chosen = max(late or groups.values(), key=len)
        if len(chosen) == 1 < len(everybody):
            self.realign()
            chosen = everybody
        for i in everybody:
            who = self.active[i].index
            self._waited[who] = 0 if i in chosen else self._waited[who] + 1
        return chosen

    def _align(self) -> None:
        """The cache's state between steps: no column behind the longest sequence is in use."""
        alive = [i for i, s in enumerate(self.active) if not s.ended]
        if not alive:
            return
        if self.align == "equal":
            self.realign()
        else:
            self.cache.rewind(max(self.bases(alive)))

    def _make_room(self, rows: int) -> None:
        """A sequence whose padding dates from a longer neighbour may run out of columns: realign then."""
        if self.align != "ragged" and max(self.bases(range(len(self.active)))) + rows > self.cache.capacity:
            self.realign()

    def realign(self) -> None:
        """Move every sequence to the right until the longest one's end, with new padding at the left."""
        started = self.clock()
        alive = [i for i, s in enumerate(self.active) if not s.ended]
        longest = max(len(self.active[i].ids) for i in alive)
        pads = list(self.pads)
        for i in alive:
            pads[i] = longest - len(self.active[i].ids)
        moved = [i for i in alive if pads[i] != self.pads[i]]
        if moved:
            with span("realign"):
                self.cache.shift(moved, [pads[i] for i in moved], [
                    list(range(self.pads[i], self.pads[i] + len(self.active[i].ids) - 1)) for i in moved])
                self.pads = pads
                self.masks.repad(pads)
                self.forward.synchronize()
            self.realigned += len(moved)
        self.cache.rewind(longest - 1)
        self.realign_s += self.clock() - started


def _shape(proposal: Proposal, rows: list[int]) -> dict[str, str]:
    """A tree's shape and what was kept of it, for the event; a chain needs neither."""
    parents = proposal.parents[:len(proposal.guesses)]
    if parents == list(range(-1, len(parents) - 1)):
        return {}
    return {"parents": ",".join(map(str, parents)),
            "kept": ",".join(str(r - 1) for r in rows[1:])}
