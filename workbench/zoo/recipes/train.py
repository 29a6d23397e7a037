"""Cross-entropy training by steps: Muon and AdamW, REX decay, resumable at any checkpoint.

- Data: step -> windows is a pure function (`batch`), so a resumed run sees what it would have seen.
- Muon (Jordan 2024; ``torch.optim.Muon``) for the matrices of the blocks, AdamW for the rest.
- REX (Chen et al. 2021, arXiv:2107.04197): holds the rate longer than linear, then drops.
- bf16 autocast, and ``torch.compile`` of forward and loss: 1.6 times the tokens/s on two CPU cores.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from workbench.zoo.recipes.recipe import Recipe

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

#: Steps between two lines of the log.
LOG_EVERY = 20


def load_streams(folder: Path, mix: dict[str, float]) -> dict[str, np.ndarray]:
    """The packed tokens of each domain, memory-mapped: uint16 [tokens]."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in mix}


def batch(recipe: Recipe, streams: dict[str, np.ndarray], step: int) -> torch.Tensor:
    """The windows of a step: int64 [B, T+1]. Domain and offset depend on (data_seed, step) only."""
    r = np.random.default_rng([recipe.data_seed, step])
    names, shares = list(recipe.mix), np.array(list(recipe.mix.values()))
    windows = np.empty((recipe.batch, recipe.context + 1), np.int64)
    for row in windows:
        stream = streams[names[r.choice(len(names), p=shares)]]
        offset = r.integers(0, len(stream) - recipe.context - 1)
        row[:] = stream[offset:offset + recipe.context + 1]
    return torch.from_numpy(windows)


def rate(step: int, steps: int, warmup: int) -> float:
    """Multiplier of the learning rates: linear warm-up times REX, 1 -> 0."""
    x = step / steps
    return min(1.0, (step + 1) / warmup) * (1 - x) / (0.5 + 0.5 * (1 - x))


def new_model(recipe: Recipe) -> LlamaForCausalLM:
    """A freshly initialised model; the seed decides the weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(LlamaConfig(**recipe.config()))


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for embeddings and norms, Muon for the blocks' matrices."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=recipe.lr_rest, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        torch.optim.Muon(matrices, lr=recipe.lr_matrices, momentum=0.95, nesterov=True,
                         weight_decay=recipe.weight_decay)]
    for optimizer in found:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return found


def logits(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """[B, T] -> [B, T, V], in bf16 autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(tokens, use_cache=False).last_hidden_state
        return F.linear(hidden, model.lm_head.weight)


def cross_entropy(model: LlamaForCausalLM) -> Callable[[torch.Tensor], torch.Tensor]:
    """[B, T+1] -> mean nats per token."""
    def loss(windows: torch.Tensor) -> torch.Tensor:
        scores = logits(model, windows[:, :-1])
        return F.cross_entropy(scores.float().flatten(0, 1), windows[:, 1:].flatten())
    return loss


def train(recipe: Recipe, streams: dict[str, np.ndarray], out: Path, *, threads: int = 2,
          stop: int | None = None, compiled: bool = True, save_every: int = 200,
          start_from: dict[str, torch.Tensor] | None = None,
          make_loss: Callable[[Any], Callable[[torch.Tensor], torch.Tensor]] = cross_entropy,
          make_batch: Callable[[Recipe, dict[str, np.ndarray], int], torch.Tensor] = batch,
          ) -> LlamaForCausalLM:
    """Train, or continue, until step ``stop`` (default: the recipe's last) and return the model.

    ``out/checkpoint.pt`` holds weights, optimizers and the step; ``out/log.jsonl`` the losses.
    ``make_loss`` and ``make_batch`` are what distillation replaces.
    """
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    model = new_model(recipe)
    if start_from is not None:
        model.load_state_dict(start_from)
    steppers = optimizers(model, recipe)
    first = resume(out, model, steppers)
    loss_of = make_loss(model)
    if compiled:
        loss_of = torch.compile(loss_of)
    stop = recipe.steps if stop is None else stop
    began, losses = time.monotonic(), []
    with open(out / "log.jsonl", "a", encoding="utf-8") as log:
        for step in range(first, stop):
            factor = rate(step, recipe.steps, recipe.warmup)
            loss = loss_of(make_batch(recipe, streams, step))
            update(model, steppers, loss, factor, recipe.clip)
            losses.append(loss.item())
            done = step + 1
            if done % LOG_EVERY == 0 or done == stop:
                row = {"step": done, "loss": round(sum(losses) / len(losses), 4),
                       "tokens": done * recipe.batch * recipe.context, "lr": round(factor, 4),
                       "threads": threads, "seconds": round(time.monotonic() - began, 1)}
                print(json.dumps(row), file=log, flush=True)
                losses = []
            if done % save_every == 0 or done == stop:
                checkpoint(out, model, steppers, done)
    return model


def update(model: LlamaForCausalLM, steppers: list[torch.optim.Optimizer], loss: torch.Tensor,
           factor: float, clip: float) -> None:
    """Backward, clip, step; ``factor`` scales every optimizer's base rate."""
    for optimizer in steppers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optimizer in steppers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def checkpoint(out: Path, model: LlamaForCausalLM, steppers: list[torch.optim.Optimizer],
               step: int) -> None:
    """Write ``out/checkpoint.pt``; an interrupted write leaves the previous one."""
    torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in steppers],
                "step": step}, out / "checkpoint.tmp")
    os.replace(out / "checkpoint.tmp", out / "checkpoint.pt")


def resume(out: Path, model: LlamaForCausalLM, steppers: list[torch.optim.Optimizer]) -> int:
    """Load ``out/checkpoint.pt`` if it is there; the first step to run."""
    file = out / "checkpoint.pt"
    if not file.is_file():
        return 0
    saved = torch.load(file, weights_only=True)
    model.load_state_dict(saved["model"])
    for optimizer, state in zip(steppers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return saved["step"]
