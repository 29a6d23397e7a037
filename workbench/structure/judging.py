"""A quick look at what a change cost: loss on held-out text, and the divergence from the original."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

#: Tokens of one window, and how many windows a look takes.
LENGTH, WINDOWS = 256, 32


@dataclass(frozen=True)
class Judged:
    """Nats per token; ``se`` by windows. ``kl``: KL(original || this), None for the original itself."""

    loss: float
    se: float
    kl: float | None
    tokens: int


def held_out(folder: Path, config: Any, windows: int = WINDOWS) -> torch.Tensor:
    """int64 [windows or fewer, 256] of the bundled evaluation documents, which nothing was fitted on."""
    from workbench import zoo
    from workbench.runtime.tokens import tokenizer_for

    tokenizer, _ = tokenizer_for(folder, int(config.vocab_size), False, False)
    length, rows = min(LENGTH, int(config.max_position_embeddings)), []
    for document in zoo.evaluation_text():
        ids = torch.tensor(tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"])
        rows += [part for part in ids.split(length) if len(part) == length]
    step = max(1, len(rows) // windows)
    return torch.stack(rows[::step][:windows])


def judge(model: Any, tokens: torch.Tensor, original: Any = None) -> Judged:
    """``tokens`` int64 [windows, length]."""
    losses, divergences = [], []
    with torch.no_grad():
        for ids in tokens.split(4):
            logits = model(ids, use_cache=False).logits[:, :-1].float()
            each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            losses.append(each.view(len(ids), -1).mean(1))
            if original is not None:
                wanted = F.log_softmax(original(ids, use_cache=False).logits[:, :-1].float(), -1)
                mine = F.log_softmax(logits, -1)
                divergences.append((wanted.exp() * (wanted - mine)).sum(-1).mean(1))
    all_ = torch.cat(losses).double()
    se = float(all_.std() / len(all_) ** 0.5) if len(all_) > 1 else 0.0
    kl = float(torch.cat(divergences).double().mean()) if divergences else None
    return Judged(float(all_.mean()), se, kl, tokens.numel())


def parameters(model: Any) -> int:
    """Distinct ones (a tied head counts once)."""
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
