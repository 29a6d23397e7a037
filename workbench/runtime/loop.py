"""The generation loop: prefill, then one token of every sequence per step.

State between steps: the cache holds every token but the last of each sequence; the last one is the
root of the next forward. Sequence b's tokens lie in the columns from ``pads[b]`` on, so its next row goes
to column ``pads[b] + len(ids) - 1``. In the native executor nothing is padded and every sequence has its
own length, so a row's bits are those of the sequence alone; module by module several sequences are padded
at the left to one length. ``speculation.py`` adds drafts to the steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from workbench.events import Event, Phase, Token
from workbench.runtime import guard as guarding
from workbench.runtime import ragged
from workbench.runtime.forward import reading
from workbench.runtime.spans import span

if TYPE_CHECKING:
    from workbench.runtime.cache import StaticCache
    from workbench.runtime.detokenize import Stream
    from workbench.runtime.forward import Forward
    from workbench.runtime.guard import Guard
    from workbench.runtime.sampling import Sampler



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
        stops: set[int], max_new_tokens: int, chunk: int,
        emit: Callable[[Event], None], clock: Callable[[], float], guard: Guard,
        piece: Callable[[int], str], monitor: Any = None,
        idle: Callable[[str], None] = lambda when: None,
    ) -> None:
        self.forward, self.cache, self.sampler, self.sequences = forward, cache, sampler, sequences
        self.stops, self.max_new, self.chunk = stops, max_new_tokens, chunk
        self.emit, self.clock, self.guard, self.piece = emit, clock, guard, piece
        self.monitor, self.idle = monitor or NoMonitor(), idle
        self.active = list(sequences)
        self.width = max(len(s.ids) for s in sequences)
        # The native executor knows every row's column, so a sequence lies as it would alone.
        self.unpadded = forward.places_rows(cache)
        self.pads = [0 if self.unpadded else self.width - len(s.ids) for s in sequences]
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
            self.advance()
            self.idle("decode")

    def advance(self) -> None:
        """One step: one forward over every sequence's last token."""
        everybody = range(len(self.active))
        bases = self.bases(everybody)
        if self._level(bases):
            ids, places = self._last_tokens()
            mask = self.masks.tree(bases[0], (), ())
            logits, started = self.run_rows(
                "decode", len(bases), lambda: self.forward(ids, places, mask, self.cache, 1))
            self.plain_tokens(logits[:, -1], started)
        else:
            rows = self.masks.ragged(everybody, bases, [()] * len(bases))
            parts, started = self.run_rows("decode", len(bases), lambda: ragged.run(
                self.forward, rows, [s.ids[-1:] for s in self.active],
                [[len(s.ids) - 1] for s in self.active], self.cache))
            self.plain_tokens(torch.cat(parts), started)
        self._retire()

    def bases(self, which: Iterable[int]) -> list[int]:
        """Column of the next row of each of these sequences."""
        return [self.pads[i] + len(self.active[i].ids) - 1 for i in which]

    def _level(self, bases: list[int]) -> bool:
        """All sequences end at one column: their rows need no bookkeeping."""
        return all(b == bases[0] for b in bases)

    def mean_accepted(self) -> float:
        """Tokens per sequence and target forward after the prefill: 1.0 for plain decoding."""
        return 1.0

    def says(self) -> dict[str, str]:
        """Control of the decoding -> what really ran, where the value is not the whole story; "" is the
        method itself."""
        return {}

    # -- prefill ----------------------------------------------------------------------------

    def prefill(self) -> None:
        """All prompts in chunks; each one's last row gives its first token."""
        with self.forward.guarded(self.guard), reading(self.forward):
            chosen = self._prefill_rows() if self.unpadded else self._prefill_padded()
        self.forwards += 1
        for sequence, token in zip(list(self.active), chosen, strict=True):
            self._append(sequence, [token])
        self._retire()

    def _prefill_padded(self) -> list[int]:
        device = self.forward.device
        ids = torch.tensor([[0] * p + s.ids for p, s in zip(self.pads, self.active, strict=True)])
        pads = torch.tensor(self.pads)[:, None]
        places = (torch.arange(self.width)[None] - pads).clamp_(min=0)
        ids, places = ids.to(device), places.to(device)
        chosen: list[int] = []
        for base in range(0, self.width, self.chunk):
            self.guard.check()
            end = min(base + self.chunk, self.width)
            started = self.clock()
            with self._watched("prefill", end - base), span("prefill", model=True):
                logits = self.forward(ids[:, base:end], places[:, base:end],
                                      self.masks.rows(base, end - base), self.cache, 1)
                chosen = self._choose(logits[:, -1]) if end == self.width else chosen
                self.forward.synchronize()
            self._last_s = self._phase("prefill", started, (end - base) * len(self.active), len(chosen))
        return chosen

    def _prefill_rows(self) -> list[int]:
        """Chunks of rows of one prompt after the other, several short ones in one forward."""
        done = [0] * len(self.active)
        last: dict[int, torch.Tensor] = {}
        chosen: list[int] = []
        while len(last) < len(done):
            self.guard.check()
            parts = self._next_rows(done)
            slots, counts = list(parts), [len(ids) for ids in parts.values()]
            bases = [done[s] for s in slots]
            started = self.clock()
            with self._watched("prefill", sum(counts)), span("prefill", model=True):
                rows = self.masks.ragged(slots, bases, [range(-1, n - 2) for n in counts])
                places = [list(range(b, b + n)) for b, n in zip(bases, counts, strict=True)]
                found = ragged.run(self.forward, rows, list(parts.values()), places, self.cache, last=True)
                for slot, n, logits in zip(slots, counts, found, strict=True):
                    done[slot] += n
                    if done[slot] == len(self.active[slot].ids):
                        last[slot] = logits[0].clone()
                if len(last) == len(done):
                    chosen = self._choose(torch.stack([last[s] for s in range(len(done))]))
                self.forward.synchronize()
            self._last_s = self._phase("prefill", started, sum(counts), len(chosen))
        return chosen

    def _next_rows(self, done: list[int]) -> dict[int, list[int]]:
        """{sequence: its next tokens}, ``chunk`` tokens in all."""
        room, parts = self.chunk, dict[int, list[int]]()
        for slot, sequence in enumerate(self.active):
            ids = sequence.ids[done[slot]:done[slot] + room]
            if ids:
                parts[slot] = ids
                room -= len(ids)
        return parts

    # -- one step ---------------------------------------------------------------------------

    def run_rows(self, phase: str, rows: int, call: Callable[[], Any]) -> tuple[Any, float]:
        """One forward of ``rows`` rows in all, watched and cancellable -> (what it gives, its start)."""
        started = self.clock()
        slow = self._last_s > guarding.SLOW_S
        with self.forward.guarded(self.guard) if slow else contextlib.nullcontext():
            with span("telemetry"):
                self.monitor.before(phase, self.step, rows)
            with span("forward", model=True):
                found = call()
            with span("telemetry"):
                self.monitor.after(phase, self.step, rows)
        self.forwards += 1
        return found, started

    def plain_tokens(self, logits: torch.Tensor, started: float) -> None:
        """Every sequence's next token from the last row's logits [B, V]."""
        chosen = self._choose(logits)
        self._last_s = self._phase("decode", started, len(self.active), len(self.active))
        for sequence, token in zip(self.active, chosen, strict=True):
            self._append(sequence, [token])
        self.emitted += len(chosen)

    # -- helpers ----------------------------------------------------------------------------

    def _choose(self, logits: torch.Tensor) -> list[int]:
        """[B, V] -> the next token of every active sequence."""
        with span("sampling"):
            return self.sampler.choose(logits, [len(s.ids) for s in self.active],
                                       [s.index for s in self.active]).tolist()

    def _last_tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and positions [B, 1], in buffers that are used again."""
        if len(self.active) == 1:
            self._one[0].fill_(self.active[0].ids[-1])
            self._one[1].fill_(len(self.active[0].ids) - 1)
        else:
            self._one.copy_(torch.tensor([[s.ids[-1] for s in self.active],
                                          [len(s.ids) - 1 for s in self.active]])[:, :, None])
        return self._one[0], self._one[1]

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
        self._leave(kept)
        if self.active:
            self.cache.take(kept)
            self.masks.take(kept)
        self._resize()

    def _leave(self, kept: list[int]) -> None:
        """Only these of the sequences that were active go on."""
        self.pads = [self.pads[i] for i in kept]
        if kept:
            self.cache.rewind(max(self.bases(range(len(kept)))))

    def _resize(self) -> None:
        """Buffers for one row per active sequence: ids and positions."""
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
