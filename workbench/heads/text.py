"""What heads learn from: text that the target itself continues, as that is what it will be asked to verify.

Self-distillation (Chen et al. 2024, arXiv:2405.18628, section 3.2; Zhou et al. 2023, arXiv:2310.08461): half
of the continuations are greedy, half are drawn at temperature 0.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_TEMPERATURE = 0.8


def continued(forward: Any, prompts: torch.Tensor, new: int, *, seed: int = 0, batch: int = 128,
              check: Callable[[], None] = lambda: None,
              tell: Callable[[int, int], None] = lambda done, of: None) -> torch.Tensor:
    """``prompts`` int64 [N, P] -> [N, P + new], the later tokens by the target.

    ``forward``: a :class:`workbench.runtime.forward.Forward`. Ends of text are not special here."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(prompts), batch):
            parts.append(_continue(forward, prompts[start:start + batch], new, start // batch % 2 == 0,
                                   generator, check))
            tell(min(start + batch, len(prompts)), len(prompts))
    return torch.cat(parts).clone()


def _continue(forward: Any, prompts: torch.Tensor, new: int, greedy: bool, generator: torch.Generator,
              check: Callable[[], None]) -> torch.Tensor:
    from workbench.runtime.cache import full_cache

    many, width = prompts.shape
    end = width + new
    cache = full_cache(forward.config, many, end, forward.device, forward.dtype)
    masks = forward.masks([0] * many, end)
    tokens = torch.zeros(many, end, dtype=torch.long)
    tokens[:, :width] = prompts
    fed = 0
    while fed < end - 1:
        check()
        n = min(4, width - fed) if fed < width else 1  # few rows per forward, as the executor takes them
        part = tokens[:, fed:fed + n].to(forward.device)
        places = torch.arange(fed, fed + n, device=forward.device).expand(many, n)
        logits = forward(part, places, masks.rows(fed, n), cache, 1)[:, -1].float().cpu()
        fed += n
        if fed >= width:
            tokens[:, fed] = logits.argmax(-1) if greedy else torch.multinomial(
                torch.softmax(logits / _TEMPERATURE, -1), 1, generator=generator)[:, 0]
    return tokens
