"""One generation with the loaded model: its tokens, its counts, its times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from workbench import events as ev

if TYPE_CHECKING:
    from workbench.runtime.model import Model
    from workbench.settings import Settings


@dataclass(frozen=True)
class Decoded:
    """Counts exclude the prompt's forward and its first token, as the speed does.

    ``tok_per_s`` over all sequences from the first token on; ``extra_bytes``: the drafter's and, of the
    cache, what its drafts need more."""

    ids: list[list[int]]
    tok_per_s: float
    seconds: float
    new: int
    forwards: int
    verifications: int
    drafted: int
    accepted: int
    draft_s: float
    verify_s: float
    drafter_bytes: int
    kv_bytes: int
    told: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


#: Name -> seconds. ``cpu``: of all threads of this process; with one thread it is the time that a machine
#: with nothing else to do would take, but for what neighbours take of its caches and memory.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def decode(model: Model, settings: Settings, prompts: Sequence[str],
           cancelled: Callable[[], bool] = lambda: False, clock: str = "wall") -> Decoded:
    """Continue ``prompts`` as one batch. Raises what ``Model.generate`` raises, Cancelled too."""
    seen: list[ev.Event] = []
    now = CLOCKS[clock]
    zero = now()
    model.generate(list(prompts), settings, seen.append, cancelled, clock=lambda: now() - zero)
    return counted(seen, len(prompts), alone(settings))


def alone(settings: Settings) -> bool:
    """Whether the target decodes without a drafter, so that a draft that is still loaded is not its own."""
    from workbench.techniques.decoding import Speculative

    return not isinstance(settings.decoding, Speculative) and "draft" not in settings.decoding.needs


def counted(seen: Sequence[ev.Event], sequences: int, alone: bool) -> Decoded:
    """The figures of a run's events; ``alone``: it had no drafter, whatever was loaded beside it."""
    tokens = [e for e in seen if isinstance(e, ev.Token)]
    drafts = [e for e in seen if isinstance(e, ev.Draft)]
    memory = [e for e in seen if isinstance(e, ev.Memory)]
    phases = [e for e in seen if isinstance(e, ev.Phase)]
    first = max(t.t_s for t in tokens if t.index == 0)
    seconds = max(t.t_s for t in tokens) - first
    new = len(tokens) - sequences
    ids: list[list[int]] = [[] for _ in range(sequences)]
    for token in tokens:
        ids[token.sequence].append(token.id)
    return Decoded(
        ids=ids, tok_per_s=new / seconds if seconds > 0 else float("nan"), seconds=seconds, new=new,
        forwards=sum(p.phase in ("verify", "decode") for p in phases), verifications=len(drafts),
        drafted=sum(d.drafted for d in drafts), accepted=sum(d.accepted for d in drafts),
        draft_s=sum(p.end_s - p.start_s for p in phases if p.phase == "draft"),
        verify_s=sum(p.end_s - p.start_s for p in phases if p.phase in ("verify", "decode")),
        drafter_bytes=0 if alone else max((m.draft_bytes for m in memory), default=0),
        kv_bytes=max((m.kv_bytes for m in memory), default=0),
        told=tuple(e.text for e in seen if isinstance(e, ev.Note)))


@dataclass(frozen=True)
class Summary:
    """Several generations of one method beside plain ones of the same prompts, taken in turn.

    ``ratio``: median of (tok/s ÷ plain's of the same turn), with quartiles. ``acceptance``, ``length``
    (tokens per verification) and ``per_forward`` are None where nothing was drafted."""

    runs: int
    new: int
    length: float | None
    per_forward: float | None
    forwards_per_token: float | None
    drafted: int
    accepted: int
    ratio: float
    ratio_low: float
    ratio_high: float
    draft_share: float
    same: int
    extra_bytes: int

    @property
    def acceptance(self) -> float | None:
        return self.accepted / self.drafted if self.drafted else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "acceptance": self.acceptance}


def summarize(pairs: Sequence[tuple[Decoded, Decoded]]) -> Summary:
    """``pairs``: (the method's, plain's) of the same prompt and turn; at least one."""
    ratios = [m.tok_per_s / p.tok_per_s for m, p in pairs]
    several = ratios if len(ratios) > 1 else ratios * 2
    low, middle, high = statistics.quantiles(several, n=4, method="inclusive")  # never beyond what was seen
    new, forwards = sum(m.new for m, _ in pairs), sum(m.forwards for m, _ in pairs)
    verified = sum(m.verifications for m, _ in pairs)
    accepted = sum(m.accepted for m, _ in pairs)
    total = sum(m.seconds for m, _ in pairs)
    return Summary(
        runs=len(pairs), new=new, length=1 + accepted / verified if verified else None,
        per_forward=new / forwards if forwards else None,
        forwards_per_token=forwards / new if new else None,
        drafted=sum(m.drafted for m, _ in pairs), accepted=accepted, ratio=middle,
        ratio_low=low, ratio_high=high,
        draft_share=sum(m.draft_s for m, _ in pairs) / total if total else 0.0,
        same=sum(m.ids == p.ids for m, p in pairs),
        extra_bytes=max(m.drafter_bytes + max(0, m.kv_bytes - p.kv_bytes) for m, p in pairs))
