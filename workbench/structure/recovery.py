"""Getting back what pruning lost: training on the unpruned model's outputs.

The loss is ce * CE + kl * KL(teacher || student) + square * SquareHead. SquareHead (Kurtic et al. 2023,
arXiv:2310.06927, equation 2): per layer the mean squared difference of the hidden states over the mean
square of the teacher's, so that every layer counts alike whatever its scale. Minitron (arXiv:2407.14679,
section 3) trains with the KL term alone, and with hidden states where much depth is gone.

``masks``: weights that must stay zero. Gradient and weight are both masked, so that neither momentum nor
decay brings them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from workbench.errors import Cancelled, ModelError, SettingsError

Told = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Recovery:
    """``batch`` windows per step; AdamW without decay, linear warm-up and decay."""

    steps: int = 200
    batch: int = 8
    rate: float = 5e-4
    ce: float = 0.0
    kl: float = 1.0
    square: float = 0.0
    warmup: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or not self.rate > 0:
            raise SettingsError("distillation needs steps >= 0, a batch of at least 1 and a rate above 0")
        if self.steps and not any((self.ce, self.kl, self.square)):
            raise SettingsError("distillation needs a loss: give ce, kl or square a weight above 0")


def square_head(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
    """Sum over layers of mean (s - t)^2 / mean t^2. Lists of equal length, [batch, tokens, width] each."""
    return torch.stack([F.mse_loss(s.float(), t.float()) / t.float().square().mean().clamp(min=1e-12)
                        for s, t in zip(student, teacher, strict=True)]).sum()


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) per token, nats; logits [..., vocab]."""
    width = student.shape[-1]
    return F.kl_div(F.log_softmax(student.float().reshape(-1, width), -1),
                    F.log_softmax(teacher.float().reshape(-1, width), -1), log_target=True,
                    reduction="batchmean")


def recover(student: Any, teacher: Any, tokens: torch.Tensor, recipe: Recovery,
            masks: Mapping[str, torch.Tensor] | None = None, layers: tuple[int, ...] | None = None,
            told: Told | None = None, cancelled: Callable[[], bool] | None = None) -> list[float]:
    """Train ``student`` in place on windows ``tokens`` [steps * batch or fewer, length]; the losses.

    ``layers``: the teacher's layer that each student layer stands for, needed by SquareHead where their
    numbers differ. Raises ModelError where the loss stops being finite (the student is then useless, the
    teacher as before), SettingsError, Cancelled."""
    masks = {} if masks is None else masks
    parameters = dict(student.named_parameters())
    unknown = [n for n in masks if n not in parameters]
    if unknown:
        raise SettingsError(f"there is no parameter {unknown[0]!r} to mask")
    student.requires_grad_(True).train()
    teacher.requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.rate, weight_decay=0.0, betas=(0.9, 0.95))
    losses: list[float] = []
    try:
        for step in range(recipe.steps):
            if cancelled is not None and cancelled():
                raise Cancelled(f"distillation was cancelled after {step} steps; nothing was written")
            rows = [(step * recipe.batch + i) % len(tokens) for i in range(recipe.batch)]
            loss = _loss(student, teacher, tokens[rows], recipe, layers)
            if not torch.isfinite(loss):
                raise ModelError(f"the distillation loss is not finite after {step} steps; lower the rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            _mask_gradients(parameters, masks)
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * _share(step, recipe)
            optimizer.step()
            _mask_weights(parameters, masks)
            losses.append(float(loss.detach()))
            if told is not None:
                told(step + 1, recipe.steps, losses[-1])
    finally:
        student.requires_grad_(False).eval()
    return losses


def _share(step: int, recipe: Recovery) -> float:
    """Of the rate: up, then down to zero, linearly."""
    warm = max(1, round(recipe.warmup * recipe.steps))
    return (step + 1) / warm if step < warm else (recipe.steps - step) / max(1, recipe.steps - warm)


def _loss(student: Any, teacher: Any, ids: torch.Tensor, recipe: Recovery, layers: tuple[int, ...] | None
          ) -> torch.Tensor:
    hidden = bool(recipe.square)
    made = student(ids, output_hidden_states=hidden, use_cache=False)
    total = made.logits.new_zeros(())
    if recipe.ce:
        flat = made.logits[:, :-1].reshape(-1, made.logits.shape[-1])
        total = total + recipe.ce * F.cross_entropy(flat.float(), ids[:, 1:].reshape(-1))
    if recipe.kl or hidden:
        with torch.no_grad():
            wanted = teacher(ids, output_hidden_states=hidden, use_cache=False)
    if recipe.kl:
        total = total + recipe.kl * divergence(made.logits, wanted.logits)
    if hidden:
        mine, theirs = list(made.hidden_states[1:]), list(wanted.hidden_states[1:])
        if layers is not None:
            theirs = [theirs[i] for i in layers]
        if len(mine) != len(theirs) or mine[0].shape[-1] != theirs[0].shape[-1]:
            raise SettingsError("SquareHead compares hidden states of one width, layer by layer; set "
                                "square=0 where the stream is narrower")
        total = total + recipe.square * square_head(mine, theirs)
    return total


def _mask_gradients(parameters: Mapping[str, Any], masks: Mapping[str, torch.Tensor]) -> None:
    for name, kept in masks.items():
        if parameters[name].grad is not None:
            parameters[name].grad.masked_fill_(~kept, 0)


def _mask_weights(parameters: Mapping[str, Any], masks: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, kept in masks.items():
            parameters[name].masked_fill_(~kept, 0)
