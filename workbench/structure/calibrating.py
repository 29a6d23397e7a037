"""Calibration and training text for structure changes: token windows of a model's own tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from workbench.calibration import text


def windows(folder: Path, config: object, samples: int, length: int, source: str = "bundled", seed: int = 0
            ) -> torch.Tensor:
    """int64 [samples, length]. Raises SettingsError (too little text)."""
    from workbench.runtime.tokens import tokenizer_for

    vocab = int(config.vocab_size)  # type: ignore[attr-defined]
    tokenizer, _ = tokenizer_for(folder, vocab, False, False)
    length = min(length, int(getattr(config, "max_position_embeddings", length)))
    return text.draw(tokenizer, source, samples, length, seed, vocab).ids
