"""One-shot pruning of a small model in memory: each layer sees what the pruned ones before it give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from workbench.calibration.statistics import Statistics
from workbench.errors import Cancelled, SettingsError
from workbench.structure import sparsegpt

ROWS = 8
Told = Callable[[int, int], None]
#: mask(weight, gram) -> bool [rows, columns]; None lets SparseGPT choose.
Masker = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]


def prune_model(model: Any, tokens: torch.Tensor, sparsity: float, told: Told | None = None,
                cancelled: Callable[[], bool] | None = None, masker: Masker | None = None
                ) -> tuple[Any, dict[str, torch.Tensor]]:
    """A pruned copy of a float32 Llama and the masks by parameter name (True stays).

    ``tokens`` int64 [samples, length]. ``masker`` gives the masks instead. Raises SettingsError,
    ModelError, Cancelled."""
    if not 0 <= sparsity < 1:
        raise SettingsError(f"sparsity={sparsity} is out of range; valid: 0 up to, not including, 1")
    made, masks = copy.deepcopy(model).eval().requires_grad_(False), {}
    turns = made.model.rotary_emb(made.get_input_embeddings().weight[None, :1],
                                  torch.arange(tokens.shape[1])[None])
    stream = [made.get_input_embeddings()(b) for b in tokens.split(ROWS)]
    for index, layer in enumerate(made.model.layers):
        if cancelled is not None and cancelled():
            raise Cancelled("pruning was cancelled; nothing was written")
        grams = _grams(layer, stream, turns)
        for name, module in layer.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            full = f"model.layers.{index}.{name}.weight"
            gram = grams[name].gram
            assert gram is not None
            given = None if masker is None else masker(full, module.weight, gram)
            found = sparsegpt.prune(module.weight, gram, sparsity, kept=given)
            module.weight.data.copy_(found.weight)
            masks[full] = found.kept
        stream = [_run(layer, x, turns) for x in stream]
        if told is not None:
            told(index + 1, len(made.model.layers))
    return made, masks


def _run(layer: Any, x: torch.Tensor, turns: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = layer(x, position_embeddings=turns, attention_mask=None)
    return out


def _grams(layer: Any, stream: list[torch.Tensor], turns: Any) -> dict[str, Statistics]:
    """Second moments of every linear layer's input, all before this layer is changed."""
    found, hooks = {}, []
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = Statistics(module.in_features)
            hooks.append(module.register_forward_pre_hook(
                lambda m, args, at=found[name]: at.add(args[0])))
    try:
        for x in stream:
            _run(layer, x, turns)
    finally:
        for hook in hooks:
            hook.remove()
    return found
