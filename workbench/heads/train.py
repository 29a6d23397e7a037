"""One trainer for all heads: the target's states once, then steps of AdamW towards its distributions.

The target is frozen. Its states over the training text are computed once (``Features``) and read by every
head; distributions are multiplied out again per batch, as they are a thousand times larger.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import Cancelled, SettingsError
from workbench.heads.distil import Batch, Head, Scores
from workbench.heads.target import Target

#: (steps done, steps in all, losses so far and hits)
Progress = Callable[[int, int, dict[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """What decides a head's weights besides the text."""

    steps: int = 400
    batch: int = 12
    rate: float = 1e-3
    warmup: int = 20
    clip: float = 0.5
    seed: int = 0
    weight_decay: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


#: Learning rates that differ from the plan's: single embeddings move further than matrices.
RATES = {"ppd": 1e-2, "medusa": 2e-3}


class Features:
    """The target's states over windows of text. ``tokens`` int64 [N, T]; ``states`` {tap: [N, T, hidden]}
    bfloat16."""

    def __init__(self, tokens: torch.Tensor, states: dict[int, torch.Tensor]) -> None:
        self.tokens, self.states = tokens, states

    def part(self, rows: slice) -> Features:
        """Some of the windows, sharing their memory."""
        return Features(self.tokens[rows], {tap: states[rows] for tap, states in self.states.items()})

    def batch(self, rows: torch.Tensor, target: Target, middle: int | None) -> Batch:
        """Windows ``rows`` as a batch, in float32."""
        last = max(self.states)
        with torch.no_grad(), torch.autocast(target.device.type, torch.bfloat16):
            features = target.features(self.states[last][rows])
            teacher = torch.log_softmax(target.logits(features).float(), -1)
        return Batch(self.tokens[rows], features.float(), teacher,
                     None if middle is None else self.states[middle][rows].float())


def features(forward: Any, tokens: torch.Tensor, taps: list[int], check: Callable[[], None],
             tell: Callable[[int, int], None] = lambda done, of: None, rows: int = 512) -> Features:
    """Run the target over ``tokens`` [N, T] and keep the taps' states.

    ``forward``: a :class:`workbench.runtime.forward.Forward`."""
    from workbench.runtime.cache import full_cache
    from workbench.runtime.states import keep_states

    many, length = tokens.shape
    size = max(1, rows // length)
    hidden = forward.config.hidden_size
    found = {tap: torch.empty(many, length, hidden, dtype=torch.bfloat16) for tap in taps}
    with torch.inference_mode():
        for start in range(0, many, size):
            check()
            part = tokens[start:start + size].to(forward.device)
            n = len(part)
            cache = full_cache(forward.config, n, length, forward.device, forward.dtype)
            states = keep_states(cache, forward.config, taps, forward.device, torch.float32)
            places = torch.arange(length, device=forward.device).expand(n, length)
            forward(part, places, forward.masks([0] * n, length).rows(0, length), cache, 1)
            for tap in taps:
                for i in range(n):
                    found[tap][start + i] = states.of(tap, 0, length, i)
            tell(start + n, many)
    return Features(tokens.clone(), {tap: found[tap].clone() for tap in taps})


def train(head: Head, target: Target, text: Features, plan: Plan, *, log: Path | None = None,
          check: Callable[[], None] = lambda: None, tell: Progress = lambda done, of, row: None
          ) -> dict[str, Any]:
    """Train ``head`` in place; the last row of the log. Raises Cancelled through ``check``."""
    if len(text.tokens) < plan.batch:
        raise SettingsError(f"{len(text.tokens)} windows of text are fewer than a batch of {plan.batch}; "
                            "give more text or a smaller batch")
    spec = head.spec
    head.begin(target)
    rate = RATES.get(spec.method, plan.rate)
    stepper = torch.optim.AdamW(head.parameters(), lr=rate, betas=(0.9, 0.95),
                                weight_decay=plan.weight_decay)
    generator = torch.Generator().manual_seed(plan.seed)
    torch.manual_seed(plan.seed)
    head.train()
    row: dict[str, Any] = {}
    began, window = time.monotonic(), [0.0, 0]
    hits = torch.zeros(spec.steps)
    with open(log, "w", encoding="utf-8") if log else _Nowhere() as out:
        for step in range(plan.steps):
            check()
            found = _step(head, target, text, plan, stepper, generator, _factor(step, plan) * rate)
            window = [window[0] + float(found.loss.detach()), window[1] + 1]
            hits[:len(found.hits)] += torch.tensor(found.hits)
            if (step + 1) % 20 == 0 or step + 1 == plan.steps:
                row = {"step": step + 1, "loss": round(window[0] / window[1], 4),
                       "hits": [round(float(h) / window[1], 4) for h in hits[:len(found.hits)]],
                       "seconds": round(time.monotonic() - began, 1)}
                print(json.dumps(row), file=out, flush=True)
                window, hits = [0.0, 0], torch.zeros(spec.steps)
            tell(step + 1, plan.steps, row)
    head.eval()
    return row


def _step(head: Head, target: Target, text: Features, plan: Plan, stepper: Any,
          generator: torch.Generator, rate: float) -> Scores:
    rows = torch.randint(len(text.tokens), (plan.batch,), generator=generator)
    batch = text.batch(rows, target, head.layer)
    for group in stepper.param_groups:
        group["lr"] = rate
    with torch.autocast(target.device.type, torch.bfloat16):
        found = head.scores(batch, target)
    if not math.isfinite(float(found.loss.detach())):
        raise SettingsError("the loss is not a number; train with a smaller rate")
    found.loss.backward()
    nn.utils.clip_grad_norm_(head.parameters(), plan.clip)
    stepper.step()
    stepper.zero_grad(set_to_none=True)
    return found


def _factor(step: int, plan: Plan) -> float:
    """Linear warm-up, then cosine to a twentieth."""
    rise = min(1.0, (step + 1) / max(1, plan.warmup))
    return rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / plan.steps)))


class _Nowhere:
    """Where the log goes when none is wanted."""

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return None


def never() -> None:
    """A check that never cancels."""


def cancelling(cancelled: Callable[[], bool]) -> Callable[[], None]:
    """A check that raises Cancelled once ``cancelled()`` is true."""

    def check() -> None:
        if cancelled():
            raise Cancelled("cancelled; the former head is untouched")

    return check
