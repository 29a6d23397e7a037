"""What a head is worth on text that it was not trained on: how often its guesses are the target's token."""

from __future__ import annotations

from collections.abc import Callable

import torch

from workbench.heads.distil import Head
from workbench.heads.target import Target
from workbench.heads.train import Features

#: Guesses per step whose hits are counted.
RANKS = 10


def rank_hits(head: Head, target: Target, text: Features, *, batch: int = 8,
              check: Callable[[], None] = lambda: None) -> list[list[float]]:
    """hits[d][r]: share of places where guess r of step d + 1 was the target's most likely token. The
    tokens between are the text's (teacher forcing)."""
    steps = head.spec.steps
    hits, seen = torch.zeros(steps, RANKS), torch.zeros(steps)
    with torch.no_grad(), torch.autocast(target.device.type, torch.bfloat16):
        for start in range(0, len(text.tokens), batch):
            check()
            rows = torch.arange(start, min(start + batch, len(text.tokens)))
            students, teachers = head.guesses(text.batch(rows, target, head.layer), target)
            for d, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
                best = student.topk(RANKS, -1).indices.flatten(0, -2).cpu()
                right = teacher.argmax(-1).flatten().cpu()
                hits[d] += (best == right[:, None]).sum(0)
                seen[d] += len(right)
    return [[round(float(h), 4) for h in row] for row in hits / seen.clamp(min=1)[:, None]]
