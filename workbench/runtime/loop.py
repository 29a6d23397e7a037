"""The generation loop: schedule, run, postprocess.

State between steps: the cache holds every token but the last of each sequence; the last one is the
root of the next forward. A plain step is the empty tree, so it needs no case of its own. Several
sequences go side by side, padded at the left to one length; a tree is verified for one sequence.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from workbench.events import Draft, Event, Phase, Token
from workbench.runtime import guard as guarding
from workbench.runtime.spans import span
from workbench.runtime.verify import depths, walk
from workbench.techniques.decoding import Drafter, Proposal

if TYPE_CHECKING:
    from workbench.runtime.cache import StaticCache
    from workbench.runtime.detokenize import Stream
    from workbench.runtime.forward import Forward
    from workbench.runtime.guard import Guard
    from workbench.runtime.sampling import Sampler

_EMPTY = Proposal()
#: Separates drafted tokens' texts in the ribbon.
_MARK = "␟"


@dataclass
class Sequence:
    """One prompt and what follows it. ``ended``: ``eos`` or ``length`` once it is complete."""

    index: int
    ids: list[int]
    prompt_tokens: int
    stream: Stream
    text: list[str] = field(default_factory=list)
    ended: str = ""

    @property
    def new(self) -> int:
        return len(self.ids) - self.prompt_tokens


class NoMonitor:
    """What the loop calls around every forward when nobody watches."""

    def before(self, phase: str, step: int, rows: int) -> None:
        return None

    def after(self, phase: str, step: int, rows: int) -> None:
        return None


class Loop:
    """One generation. ``run()`` returns when every sequence has ended, or raises ``Cancelled``."""

    def __init__(
        self, forward: Forward, cache: StaticCache, sampler: Sampler, sequences: list[Sequence], *,
        drafter: Drafter | None, stops: set[int], max_new_tokens: int, chunk: int,
        emit: Callable[[Event], None], clock: Callable[[], float], guard: Guard,
        piece: Callable[[int], str], monitor: Any = None,
        idle: Callable[[str], None] = lambda when: None,
    ) -> None:
        self.forward, self.cache, self.sampler, self.sequences = forward, cache, sampler, sequences
        self.drafter, self.stops, self.max_new, self.chunk = drafter, stops, max_new_tokens, chunk
        self.emit, self.clock, self.guard, self.piece = emit, clock, guard, piece
        self.monitor, self.idle = monitor or NoMonitor(), idle
        self.active = list(sequences)
        self.width = max(len(s.ids) for s in sequences)
        self.pads = [self.width - len(s.ids) for s in sequences]
        self.masks = forward.masks(self.pads, cache.capacity)
        self.step = 0
        self.forwards = self.verifications = 0
        self.drafted = self.accepted = self.emitted = 0
        self._last_s = 0.0
        self._resize()

    def run(self) -> None:
        self.prefill()
        self.cache.show_blocks(self.masks.block)
        self.idle("prefill")
        while self.active:
            self.guard.check()
            self.step += 1
            proposal = self.schedule()
            logits, started = self.run_rows(proposal)
            self.postprocess(proposal, logits, started)
            self.idle("decode")

    def mean_accepted(self) -> float:
        """Tokens per sequence and target forward after the prefill: 1.0 for plain decoding."""
        if self.drafter is None or self.forwards < 2:
            return 1.0
        return self.emitted / (self.forwards - 1)

    # -- prefill ----------------------------------------------------------------------------

    def prefill(self) -> None:
        """All prompts in chunks; the last chunk's last row gives each sequence's first token."""
        device = self.forward.device
        ids = torch.tensor([[0] * p + s.ids for p, s in zip(self.pads, self.active, strict=True)])
        pads = torch.tensor(self.pads)[:, None]
        places = (torch.arange(self.width)[None] - pads).clamp_(min=0)
        ids, places = ids.to(device), places.to(device)
        with self.forward.guarded(self.guard):
            for base in range(0, self.width, self.chunk):
                self.guard.check()
                end = min(base + self.chunk, self.width)
                started = self.clock()
                with self._watched("prefill", end - base), span("prefill", model=True):
                    logits = self.forward(ids[:, base:end], places[:, base:end],
                                          self.masks.rows(base, end - base), self.cache, 1)
                    chosen = self._choose(logits[:, -1]) if end == self.width else None
                    self.forward.synchronize()
                self._last_s = self._phase("prefill", started, (end - base) * len(self.active),
                                           len(self.active) if chosen else 0)
        self.forwards += 1
        for sequence, token in zip(list(self.active), chosen or [], strict=True):
            self._append(sequence, [token])
        self._retire()

    # -- one step ---------------------------------------------------------------------------

    def schedule(self) -> Proposal:
        """What to verify besides each sequence's last token."""
        self._kept = 0
        if self.drafter is None:
            return _EMPTY
        sequence = self.active[0]
        budget = self.max_new - sequence.new - 1
        if budget < 1:
            return _EMPTY
        started = self.clock()
        with span("telemetry"):
            self.monitor.before("draft", self.step, budget)
        with span("draft", model=True):
            proposal = self.drafter.propose(sequence.ids, budget)
        with span("telemetry"):
            self.monitor.after("draft", self.step, len(proposal.tokens))
        self._phase("draft", started, len(proposal.tokens), 0)
        return proposal

    def run_rows(self, proposal: Proposal) -> tuple[torch.Tensor, float]:
        """One forward over every sequence's root and the proposal's nodes -> logits [B, n, V]."""
        base = self.cache.length
        phase = "verify" if proposal.tokens else "decode"
        n = 1 + len(proposal.tokens)
        deep = depths(proposal.parents)
        mask = self.masks.tree(base, proposal.parents, deep)
        ids, places = self._rows(proposal, deep, base)
        started = self.clock()
        slow = self._last_s > guarding.SLOW_S
        with self.forward.guarded(self.guard) if slow else contextlib.nullcontext():
            with span("telemetry"):
                self.monitor.before(phase, self.step, n * len(self.active))
            with span("forward", model=True):
                logits = self.forward(ids, places, mask, self.cache, n)
            with span("telemetry"):
                self.monitor.after(phase, self.step, n * len(self.active))
        self.forwards += 1
        return logits, started

    def postprocess(self, proposal: Proposal, logits: torch.Tensor, started: float) -> None:
        """Keep what the target confirms, forget the rest, tell everybody."""
        if not proposal.tokens:
            chosen = self._choose(logits[:, -1])
            self._last_s = self._phase("decode", started, len(self.active), len(self.active))
            for sequence, token in zip(self.active, chosen, strict=True):
                self._append(sequence, [token])
            self.emitted += len(chosen)
        else:
            self._verified(self.active[0], proposal, logits[0], started)
        if self.drafter is not None:
            with span("draft", model=True):
                self.drafter.observe(self.active[0].ids, self._kept, logits[0])
        self._retire()

    def _verified(self, sequence: Sequence, proposal: Proposal, logits: torch.Tensor,
                  started: float) -> None:
        base = self.cache.length - len(proposal.tokens) - 1
        with span("sampling"):
            rows, tokens = walk(proposal, logits, len(sequence.ids), self.sampler)
        tokens = self._until_end(sequence, tokens)
        self.cache.keep(base, rows[:len(tokens)])
        self._kept = min(len(rows) - 1, len(tokens))
        self._last_s = self._phase("verify", started, 1 + len(proposal.tokens), len(tokens))
        self._append(sequence, tokens, accepted=len(rows) - 1, own="bonus")
        self.verifications += 1
        self.drafted += len(proposal.tokens)
        self.accepted += self._kept
        self.emitted += len(tokens)
        self.emit(Draft(
            t_s=self.clock(), step=self.step, drafted=len(proposal.tokens), accepted=self._kept,
            emitted=len(tokens), rows=1 + len(proposal.tokens), draft_s=proposal.seconds,
            verify_s=self._last_s, sequence=sequence.index,
            proposed=_MARK.join(self.piece(t) for t in proposal.tokens)))

    # -- helpers ----------------------------------------------------------------------------

    def _choose(self, logits: torch.Tensor) -> list[int]:
        """[B, V] -> the next token of every active sequence."""
        with span("sampling"):
            return self.sampler.choose(logits, [len(s.ids) for s in self.active],
                                       [s.index for s in self.active]).tolist()

    def _rows(self, proposal: Proposal, deep: list[int], base: int
              ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and positions [B, n]; the single row of plain decoding reuses its buffers."""
        if proposal.tokens:
            sequence, device = self.active[0], self.forward.device
            place = len(sequence.ids) - 1
            both = torch.tensor([[sequence.ids[-1], *proposal.tokens],
                                 [place, *(place + d for d in deep)]])
            ids, places = both.to(device)
            return ids[None], places[None]
        if len(self.active) == 1:
            self._one[0].fill_(self.active[0].ids[-1])
            self._one[1].fill_(len(self.active[0].ids) - 1)
        else:
            self._one.copy_(torch.tensor([[s.ids[-1] for s in self.active],
                                          [len(s.ids) - 1 for s in self.active]])[:, :, None])
        return self._one[0], self._one[1]

    def _until_end(self, sequence: Sequence, tokens: list[int]) -> list[int]:
        """Cut at the first stop token (kept) and at the length limit."""
        tokens = tokens[:self.max_new - sequence.new]
        for i, token in enumerate(tokens):
            if token in self.stops:
                return tokens[:i + 1]
        return tokens

    def _append(self, sequence: Sequence, tokens: list[int], accepted: int = 0,
                own: str = "plain") -> None:
        """Commit tokens; the first ``accepted`` were drafted, ``own`` names the target's."""
        now = self.clock()
        for i, token in enumerate(tokens):
            stop = token in self.stops
            with span("detokenize"):
                text = "" if stop else sequence.stream.push(token)
            index = sequence.new
            sequence.ids.append(token)
            last = stop or sequence.new >= self.max_new
            if last:
                text += sequence.stream.rest()
                sequence.ended = "eos" if stop else "length"
            sequence.text.append(text)
            source = "draft" if i < accepted else own
            self.emit(Token(t_s=now, index=index, id=token, text=text, source=source,
                            step=self.step, sequence=sequence.index))

    def _retire(self) -> None:
        """Sequences that ended leave the batch, and their rows are computed no more."""
        if not any(s.ended for s in self.active):
            return
        kept = [i for i, s in enumerate(self.active) if not s.ended]
        self.active = [self.active[i] for i in kept]
        if self.active:
            self.cache.take(kept)
            self.masks.take(kept)
        self._resize()

    def _resize(self) -> None:
        """Buffers for one row per active sequence: ids and positions."""
        self._kept = 0
        self._one = torch.zeros(2, len(self.active), 1, dtype=torch.long,
                                device=self.forward.device)

    def _phase(self, phase: str, started: float, rows: int, tokens: int) -> float:
        """Emit the interval from ``started`` to now; its duration in seconds."""
        now = self.clock()
        self.emit(Phase(t_s=now, phase=phase, start_s=started, end_s=now, step=self.step,
                        rows=rows, tokens=tokens))
        return now - started

    @contextlib.contextmanager
    def _watched(self, phase: str, rows: int) -> Iterator[None]:
        with span("telemetry"):
            self.monitor.before(phase, self.step, rows)
        try:
            yield
        finally:
            with span("telemetry"):
                self.monitor.after(phase, self.step, rows)


def clock_from_zero() -> Callable[[], float]:
    """Seconds since this call, on the monotonic clock."""
    zero = time.perf_counter()
    return lambda: time.perf_counter() - zero
