"""Log-likelihoods of given tokens after given tokens, through the run's own KV cache.

What lm-eval asks of a model (``loglikelihood``: the continuation's log-probability, and whether greedy
decoding would say it), with the loaded weights and the chosen cache:

    sum_i log q(t_i | context, t_1 .. t_(i-1)),    greedy = all_i t_i == argmax q

The tokens go through the cache in chunks, so that what a compressed cache loses is measured too.
Requests that begin alike (the choices of one question) share what the cache holds of it, where going
back in the cache loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import SettingsError
from workbench.runtime.cache import StaticCache
from workbench.runtime.guard import Guard
from workbench.runtime.oom import explained

if TYPE_CHECKING:
    from workbench.settings import Settings

#: Rows of one forward, as in the evaluation of texts.
CHUNK = 128
_ADVICE = "choose a task with shorter prompts or kv=int8"


@dataclass
class Scorer:
    """Scores one sequence at a time with ``model`` (native or a peer). ``cut``: how many requests were
    longer than the model's positions, so that the beginning of their context was left out."""

    model: Any
    settings: Settings
    cancelled: Callable[[], bool]
    cut: int = 0
    _cache: Any = None
    _masks: Any = None
    _held: list[int] = field(default_factory=list)
    #: Logits [1, V] behind ``_held``: choices of one token each need no forward but the first one's.
    _behind: torch.Tensor | None = None

    @property
    def most(self) -> int:
        """Tokens that the model reads at once."""
        return int(self.model.forward.max_positions)

    def score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """(log-probability of ``continuation`` after ``context``, whether it is the greedy one).

        Raises SettingsError (no context, a continuation longer than the model's positions, a backend
        without logits), Cancelled, OutOfMemory."""
        if not continuation:
            return 0.0, True
        if not context:
            raise SettingsError("a continuation without context cannot be scored; begin with a token")
        if len(continuation) > self.most:
            raise SettingsError(f"a continuation of {len(continuation)} tokens is longer than the model's "
                                f"{self.most} positions; choose another task or a model with more")
        whole = (context + continuation)[-(self.most + 1):]
        self.cut += len(context) + len(continuation) > self.most + 1
        with torch.inference_mode(), explained("the task", _ADVICE):
            return self._score(whole[:-1], continuation)

    def _score(self, ids: list[int], targets: list[int]) -> tuple[float, bool]:
        goals = torch.tensor(targets, device=self.model.device)
        if len(targets) == 1 and self._behind is not None and ids == self._held:
            return _likelihood(self._behind, goals)
        first = len(ids) - len(targets)
        base = self._start(ids, first)
        total, greedy = 0.0, True
        tokens = torch.tensor([ids], device=self.model.device)
        guard = Guard(self.cancelled)
        with guard.between_layers(self.model.forward.model):
            while base < len(ids):
                guard.check()
                end = min(base + CHUNK, len(ids))
                rows = max(1, end - max(base, first))
                logits = self._forward(tokens, base, end, rows)
                if end > first:
                    part = goals[end - rows - first:end - first]
                    value, same = _likelihood(logits, part)
                    total, greedy = total + value, greedy and same
                base = end
        self._held, self._behind = ids, logits[-1:].clone()
        return total, greedy

    def _start(self, ids: list[int], most: int) -> int:
        """Rewinds the cache to what it holds of ``ids``, at most ``most`` tokens of them."""
        if self._cache is None or self._cache.capacity < len(ids):
            room = min(self.most, max(2 * len(ids), 2 * CHUNK))
            self._cache = self.model.cache(self.settings, 1, room)
            self._masks = self.model.forward.masks([0], self._cache.capacity)
            self._held = []
        shared = 0
        if exact_rewind(self._cache):
            pairs = zip(ids, self._held, strict=False)
            shared = min(most, next((i for i, (a, b) in enumerate(pairs) if a != b),
                                    min(len(ids), len(self._held))))
        self._held, self._behind = [], None  # an interrupted forward leaves nothing to rely on
        self._cache.rewind(shared)
        return shared

    def _forward(self, tokens: torch.Tensor, base: int, end: int, rows: int) -> torch.Tensor:
        """Tokens ``base`` .. ``end`` into the cache -> logits [rows, V] of the last ``rows``."""
        places = torch.arange(base, end, device=self.model.device)[None]
        logits = self.model.forward(tokens[:, base:end], places, self._masks.rows(base, end - base),
                                    self._cache, rows)
        found: torch.Tensor = logits[0]
        return found


def exact_rewind(cache: Any) -> bool:
    """Whether going back in ``cache`` leaves it as if the rest had never been there. A peer's own cache
    cannot go back part of the way, and KIVI's packed tokens stay rounded."""
    return isinstance(cache, StaticCache) and type(cache).rewind is StaticCache.rewind


def _likelihood(logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, bool]:
    """``logits`` [n, V], ``targets`` [n] -> (sum of log-probabilities in float64, all are the largest)."""
    scores = logits.float().log_softmax(-1)
    said = scores.gather(1, targets[:, None])[:, 0]
    return float(said.double().sum()), bool((scores.argmax(-1) == targets).all())
