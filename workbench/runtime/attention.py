"""The attention that every model of the workbench runs, registered with transformers by name.

Grouped-query heads are folded into rows: the ``groups`` query heads that share one key head become
``groups * n`` rows of that head, so keys and values are read once and never copied (transformers
repeats them per query head as soon as there is a mask). Softmax sees the same numbers either way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

#: The name in ``config._attn_implementation``; not in transformers' mask table, so masks pass as given.
NAME = "workbench"


def attend(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float | None = None, dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """``query`` [B, H, n, D], ``key`` [B, K, S, D], ``value`` [B, K, S, E] -> [B, n, H, E].

    ``attention_mask``: additive [B or 1, 1, n, S] in the query's dtype, or already folded
    [B or 1, 1, groups * n, S] (see :func:`fold_mask`), or None. None means that every row sees every
    column when n is 1, and plain causal attention from position 0 when n is S."""
    batch, heads, rows, _width = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    if attention_mask is None and rows > 1:
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=groups > 1)
        return out.transpose(1, 2).contiguous(), None
    if groups > 1:
        query = query.reshape(batch, kv_heads, groups * rows, -1)
        if attention_mask is not None and attention_mask.shape[2] != groups * rows:
            attention_mask = fold_mask(attention_mask, groups)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    if groups > 1:
        out = out.reshape(batch, heads, rows, -1)
    return out.transpose(1, 2).contiguous(), None


def fold_mask(mask: torch.Tensor, groups: int) -> torch.Tensor:
    """[B, 1, n, S] -> [B, 1, groups * n, S]: row ``g * n + i`` of a key head is row ``i``."""
    if groups == 1 or mask.shape[2] == 1:  # one row broadcasts
        return mask
    return mask.repeat(1, 1, groups, 1)


def install(model: Any) -> str:
    """Make ``model`` use :func:`attend` where its architecture allows it; the name that will run.

    Soft-capped scores and attention sinks are not scaled-dot-product attention: such models keep
    transformers' eager code, which knows them."""
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    odd = getattr(config, "attn_logit_softcapping", None) or config.model_type == "gpt_oss"
    if odd or not getattr(model, "_supports_attention_backend", False):
        model.set_attn_implementation("eager")
        return "eager"
    AttentionInterface.register(NAME, attend)
    for part in {id(c): c for c in (model.config, config)}.values():
        part._attn_implementation = NAME
    for module in model.modules():
        inner = getattr(module, "config", None)
        if inner is not None and hasattr(inner, "_attn_implementation"):
            inner._attn_implementation = NAME
    return NAME


def kernel_name(implementation: str, device: torch.device) -> str:
    """What the settings report shows for attention."""
    if implementation != NAME:
        return f"transformers {implementation}"
    where = "flash or memory-efficient, torch chooses" if device.type == "cuda" else "flash for CPU"
    return f"scaled_dot_product_attention, grouped heads folded ({where})"
