"""The draft's second stage: match the target's next-token distribution.

Forward KL to the target (Hinton et al. 2015, arXiv:1503.02531) on the corpus and on text that the
target wrote itself; a draft trained so is accepted more often than one trained on text alone
(Zhou et al. 2023, DistillSpec, arXiv:2310.08461).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from workbench.zoo.recipes.recipe import DRAFT, MIX, TARGET, Recipe
from workbench.zoo.recipes.train import batch, load_streams, logits, train

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

#: Share of the windows that the target wrote.
OWN_TEXT = 0.1

DISTILLED = replace(DRAFT, steps=500, warmup=50, lr_matrices=0.01, lr_rest=2e-3, data_seed=1,
                    mix={**{name: share * (1 - OWN_TEXT) for name, share in MIX.items()},
                         "target": OWN_TEXT})


def divergence(teacher: Any) -> Callable[[Any], Callable[[torch.Tensor], torch.Tensor]]:
    """A ``make_loss`` for `train`: mean KL(teacher || student) in nats per token."""
    teacher = teacher.eval().requires_grad_(False)

    def make(student: LlamaForCausalLM) -> Callable[[torch.Tensor], torch.Tensor]:
        def loss(windows: torch.Tensor) -> torch.Tensor:
            tokens = windows[:, :-1]
            with torch.no_grad():
                wanted = F.log_softmax(logits(teacher, tokens).float().flatten(0, 1), -1)
            given = F.log_softmax(logits(student, tokens).float().flatten(0, 1), -1)
            return F.kl_div(given, wanted, log_target=True, reduction="batchmean")
        return loss
    return make


def write_text(target: Any, streams: dict[str, np.ndarray], rows: int = 128,
               prompt: int = 48, new: int = 144, temperature: float = 0.7, seed: int = 11,
               ) -> np.ndarray:
    """Continuations of training windows by the target: uint16 [rows * (prompt + new)]."""
    torch.manual_seed(seed)
    recipe = replace(TARGET, batch=128, context=prompt - 1, data_seed=seed)
    pieces = []
    for step in range(rows // recipe.batch):
        windows = batch(recipe, streams, step)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            tokens = target.generate(windows, max_new_tokens=new, min_new_tokens=new, do_sample=True,
                                     temperature=temperature, top_k=0,
                                     attention_mask=torch.ones_like(windows))
        pieces.append(tokens.flatten().numpy().astype(np.uint16))
    return np.concatenate(pieces)


def distill(target: Any, start_from: dict[str, torch.Tensor], streams_at: Path,
            out: Path, recipe: Recipe = DISTILLED, threads: int = 2, compiled: bool = True,
            ) -> LlamaForCausalLM:
    """Distil the draft, starting from its cross-entropy weights; text by the target is made first."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    corpus = load_streams(streams_at, MIX)
    own = out / "target.npy"
    if not own.is_file():
        np.save(own, write_text(target, corpus))
    streams = {**corpus, "target": np.load(own, mmap_mode="r")}
    return train(recipe, streams, out, threads=threads, compiled=compiled, start_from=start_from,
                 make_loss=divergence(target))
