"""Border inputs: prompts on which two configurations choose different next tokens.

HSPI (arXiv:2411.05197) finds them with gradients. Here one token of a prompt is replaced at random and
the change is kept when the reference's two likeliest tokens come closer: near a tie the rounding
decides. No gradient, so it works for every format; a border prompt tells configurations apart by text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled
from workbench.fingerprint.collect import Collected, Config, collect, last_logits, opened
from workbench.fingerprint.study import token_differences, twins

if TYPE_CHECKING:
    import numpy as np


def margin(logits: np.ndarray) -> np.ndarray:
    """[prompts, vocabulary] -> the two largest logits' distance, [prompts]."""
    import numpy as np

    top = np.partition(logits, -2, axis=1)[:, -2:]
    return np.abs(top[:, 1] - top[:, 0])


def sharpen(loaded: Any, config: Config, prompts: Sequence[list[int]], rounds: int, seed: int = 0,
            cancelled: Callable[[], bool] = lambda: False) -> list[list[int]]:
    """The prompts after ``rounds`` tried replacements each, every one nearer to a tie than before."""
    import numpy as np

    random = np.random.default_rng(seed)
    best = [list(p) for p in prompts]
    distance = margin(last_logits(loaded, config, best))
    for _ in range(rounds):
        if cancelled():
            raise Cancelled("cancelled; nothing was saved")
        tried = []
        for p in best:
            changed = list(p)
            changed[int(random.integers(1, len(p)))] = int(random.integers(16, loaded.forward.vocab))
            tried.append(changed)
        found = margin(last_logits(loaded, config, tried))
        for i in np.flatnonzero(found < distance):
            best[i], distance[i] = tried[i], found[i]
    return best


def search(configs: Sequence[Config], model: str = "bundled", count: int = 24, rounds: int = 24,
           seed: int = 0, progress: Callable[[str, float], None] = lambda what, share: None,
           cancelled: Callable[[], bool] = lambda: False
           ) -> tuple[Collected, dict[tuple[str, str], int]]:
    """(logits on the border prompts, pair -> prompts whose token differs). The first configuration is
    the reference. Raises as :func:`collect` does."""
    from workbench.fingerprint.collect import prompts_of

    progress("searching border prompts", 0.0)
    with opened(configs[0], model) as loaded:
        start = prompts_of(loaded.tokenizer, count)
        prompts = sharpen(loaded, configs[0], start, rounds, seed, cancelled)
    found = collect(configs, model, progress=progress, cancelled=cancelled, prompts=prompts)
    return found, token_differences(found, twins(found.logits))
