"""What all heads are trained towards: the target's own distributions at the tokens ahead.

Step i of a head that stands at token t guesses token t + 2 + i; token t + 1 is already chosen when a draft
begins. The target's distribution for that token comes from its features at t + 1 + i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from workbench.heads.spec import HeadSpec
from workbench.heads.target import Target

#: Weight of each further step.
DECAY = 0.8


@dataclass
class Batch:
    """``tokens`` int64 [B, T]; ``states`` [B, T, hidden] before the final norm; ``middle`` of the tap that
    hidden transfer starts from, or None; ``features`` after the final norm; ``teacher`` [B, T, V]: the
    target's log-probabilities."""

    tokens: torch.Tensor
    features: torch.Tensor
    teacher: torch.Tensor
    middle: torch.Tensor | None = None


#: Logits of each step, and the target's log-probabilities for the same tokens: [..., V] each.
Guesses = tuple[list[torch.Tensor], list[torch.Tensor]]


@dataclass
class Scores:
    """Sums over steps: the loss to descend, and per step how often its first guess was the target's."""

    loss: torch.Tensor
    hits: list[float]


class Head(nn.Module):
    """A head as the trainer sees it. ``layer``: the tap it reads besides the last, if any."""

    layer: Any = None

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec

    def begin(self, target: Target) -> None:
        """Before the first step of training."""

    def guesses(self, batch: Batch, target: Target) -> Guesses:
        """Every step at every place of the batch that has its tokens ahead."""
        raise NotImplementedError

    def scores(self, batch: Batch, target: Target) -> Scores:
        """What training descends."""
        return towards(self.guesses(batch, target))


def towards(guessed: Guesses) -> Scores:
    """Weighted mean cross entropy to the teacher."""
    students, teachers = guessed
    total, weight = torch.zeros((), device=students[0].device), 0.0
    hits: list[float] = []
    for step, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        guesses = F.log_softmax(student.float(), -1)
        total = total - DECAY**step * (teacher.exp() * guesses).sum(-1).mean()
        weight += DECAY**step
        hits.append(float((guesses.argmax(-1) == teacher.argmax(-1)).float().mean()))
    return Scores(total / weight, hits)
