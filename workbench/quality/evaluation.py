"""Streaming evaluation of the loaded model on texts, through the run's own KV cache.

Every document is cut into windows of at most the model's positions (and 1024); each window starts
with an empty cache and its first token is context only. The window goes through the cache in
chunks, so that what a compressed cache loses is measured too. Windows may
come in a shuffled order, so that the first of them are a fair sample of all and the estimate only
narrows; what was scored is kept in a journal, and a stopped evaluation goes on from there. Per token:

    nll   = -log q(token)
    kl    = sum_v p(v) (log p(v) - log q(v))      p: the reference, q: this configuration
    top1  = argmax p == argmax q
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workbench.errors import SettingsError
from workbench.events import Event, Progress, Quality
from workbench.quality.journal import Journal, Scored
from workbench.quality.reference import Reader, Writer, tokens_key
from workbench.quality.statistics import Series, mean_and_error, perplexity, quantile
from workbench.runtime.guard import Guard
from workbench.runtime.oom import explained

if TYPE_CHECKING:
    from workbench.runtime.model import Model
    from workbench.settings import Settings

_WINDOW = 1024
_CHUNK = 128
_PARTIAL_EVERY_S = 0.5
_ADVICE = "evaluate shorter texts or choose kv=int8"


@dataclass
class Summary:
    """The figures of a whole evaluation; ``None`` where there was no reference."""

    tokens: int
    perplexity: float
    perplexity_se: float | None
    kl_mean: float | None = None
    kl_se: float | None = None
    kl_median: float | None = None
    kl_p99: float | None = None
    top1: float | None = None
    top1_se: float | None = None


@dataclass
class _Scores:
    nll: Series = field(default_factory=Series)
    kl: Series = field(default_factory=Series)
    same: Series = field(default_factory=Series)

    def add(self, known: Scored) -> None:
        """Scores of one window as :meth:`since` gave them."""
        self.nll.add(known.nll)
        if len(known.kl):
            self.kl.add(known.kl)
            self.same.add(known.same)

    def since(self, place: int) -> Scored:
        """Scores from ``place`` on."""
        compared = len(self.kl) > 0
        return Scored(self.nll.values()[place:], self.kl.values()[place:] if compared else np.zeros(0),
                      self.same.values()[place:] if compared else np.zeros(0))

    def events(self, against: str, done: bool) -> list[Quality]:
        """The figures so far; the ones that need all tokens only at the end."""
        found = [("perplexity", *perplexity(self.nll.values()), "")]
        if len(self.kl):
            found.append(("kl_mean", *mean_and_error(self.kl.values()), against))
            found.append(("top1", *mean_and_error(self.same.values()), against))
        if len(self.kl) and done:
            found.append(("kl_median", *quantile(self.kl.values(), 0.5), against))
            found.append(("kl_p99", *quantile(self.kl.values(), 0.99), against))
        return [Quality(metric=m, value=v, se=se, tokens=len(self.nll), against=a, done=done)
                for m, v, se, a in found]


def evaluate(
    model: Model, texts: list[str], emit: Callable[[Event], None], cancelled: Callable[[], bool],
    reference: Path | str | None = None, save: Path | str | None = None,
    settings: Settings | None = None, clock: Callable[[], float] = lambda: 0.0,
    window: int = _WINDOW, shuffle: int | None = None, journal: Path | str | None = None,
) -> Summary:
    """Perplexity, and KL and agreement against ``reference``; ``save`` writes such a reference.

    Emits Progress and Quality (partial ones with ``done=False`` about twice a second). ``settings``
    chooses the KV cache (default: the loaded ones). ``window``: tokens per window at most. ``shuffle``:
    seed of the windows' order (not with ``save``). ``journal``: file in which finished windows are kept;
    those that are there already are not scored again, and it is removed at the end. Raises Cancelled,
    SettingsError (texts without two tokens), StoreError (a reference of other texts, a full disk),
    OutOfMemory."""
    settings = settings or model.settings
    windows = _windows(model, texts, window)
    if save and shuffle is not None:
        raise SettingsError("a reference is written in the order of the text; leave shuffle out")
    rows, key = sum(len(w) - 1 for w in windows), tokens_key(windows)
    reader = Reader(Path(reference), rows, model.forward.vocab, key) if reference else None
    about = {"tokens": key, "against": f"{settings.label()}, KV {settings.kv}",
             "model": settings.model.source}
    writer = Writer(Path(save), rows, model.forward.vocab, about) if save else None
    kept = Journal(Path(journal), {"tokens": key, "reference": reader.about if reader else None,
                                   "settings": settings.to_dict()}) if journal else None
    work = _Work(model, settings, Guard(cancelled), emit, clock, reader, writer, rows, kept)
    finished = False
    try:
        with torch.inference_mode(), explained("the evaluation", _ADVICE):
            for index, row in _order(windows, shuffle):
                work.window(index, row, windows[index])
        finished = True
    finally:
        if writer is not None:
            writer.close(finished)
    work.tell(done=True)
    if kept is not None:
        kept.remove()
    return work.summary()


def _order(windows: list[list[int]], shuffle: int | None) -> list[tuple[int, int]]:
    """(window, row of its first score in the reference), in the order of scoring."""
    found, row = [], 0
    for index, ids in enumerate(windows):
        found.append((index, row))
        row += len(ids) - 1
    if shuffle is not None:
        random.Random(shuffle).shuffle(found)
    return found


def _windows(model: Model, texts: list[str], size: int = _WINDOW) -> list[list[int]]:
    """Token windows of at least two tokens, documents in order."""
    size = min(max(2, size), model.forward.max_positions)
    found = []
    for text in texts:
        ids = model.encode(text)
        found += [ids[i:i + size] for i in range(0, len(ids), size)]
    found = [w for w in found if len(w) > 1]
    if not found:
        raise SettingsError("the evaluation texts have fewer than two tokens; give longer texts")
    return found


@dataclass
class _Work:
    model: Model
    settings: Settings
    guard: Guard
    emit: Callable[[Event], None]
    clock: Callable[[], float]
    reader: Reader | None
    writer: Writer | None
    rows: int
    journal: Journal | None = None
    scores: _Scores = field(default_factory=_Scores)
    _cache: Any = None
    _told: float = field(default_factory=time.monotonic)

    def window(self, index: int, row: int, ids: list[int]) -> None:
        """Score one window through a cache that starts empty, or take its scores from the journal."""
        known = None if self.journal is None else self.journal.done.get(index)
        if known is not None:
            self.scores.add(known)
            return self._maybe_tell()
        before = len(self.scores.nll)
        if self.reader is not None:
            self.reader.seek(row)
        self._forward(ids)
        if self.journal is not None:
            self.journal.add(index, self.scores.since(before))
        return None

    def _forward(self, ids: list[int]) -> None:
        if self._cache is None or self._cache.capacity < len(ids):
            self._cache = self.model.cache(self.settings, 1, max(len(ids), _CHUNK))
        self._cache.rewind(0)
        forward, device = self.model.forward, self.model.device
        masks = forward.masks([0], self._cache.capacity)
        tokens = torch.tensor([ids], device=device)
        last = len(ids) - 1
        with self.guard.between_layers(forward.model):
            for base in range(0, last, _CHUNK):
                self.guard.check()
                end = min(base + _CHUNK, last)
                places = torch.arange(base, end, device=device)[None]
                logits = forward(tokens[:, base:end], places, masks.rows(base, end - base),
                                 self._cache, end - base)
                self._score(logits[0], tokens[0, base + 1:end + 1])
                self._maybe_tell()

    def _score(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """``logits`` [n, V], ``targets`` [n]."""
        q = logits.float().log_softmax(-1)
        self.scores.nll.add((-q.gather(1, targets[:, None])[:, 0]).cpu().numpy())
        if self.reader is not None:
            p = torch.from_numpy(self.reader.next(len(targets))).to(q.device)
            # A token that p rules out entirely (-inf) contributes nothing.
            terms = torch.where(p > float("-inf"), p.exp() * (p - q), torch.zeros_like(p))
            self.scores.kl.add(terms.sum(-1, dtype=torch.float64).clamp_(min=0.0).cpu().numpy())
            self.scores.same.add((p.argmax(-1) == q.argmax(-1)).cpu().numpy().astype(np.float64))
        if self.writer is not None:
            self.writer.add(q.cpu().numpy())

    def _maybe_tell(self) -> None:
        if time.monotonic() - self._told >= _PARTIAL_EVERY_S:
            self._told = time.monotonic()
            self.tell(done=False)

    def tell(self, done: bool) -> None:
        import msgspec

        against = self.reader.about.get("against", "the reference") if self.reader else ""
        now = self.clock()
        self.emit(Progress(t_s=now, what="evaluate", done=len(self.scores.nll), total=self.rows))
        for event in self.scores.events(against, done):
            self.emit(msgspec.structs.replace(event, t_s=now))

    def summary(self) -> Summary:
        found = {e.metric: e for e in self.scores.events("", True)}

        def read(metric: str, what: str = "value") -> Any:
            return getattr(found[metric], what) if metric in found else None

        return Summary(
            tokens=len(self.scores.nll), perplexity=read("perplexity"),
            perplexity_se=read("perplexity", "se"), kl_mean=read("kl_mean"),
            kl_se=read("kl_mean", "se"), kl_median=read("kl_median"), kl_p99=read("kl_p99"),
            top1=read("top1"), top1_se=read("top1", "se"))
