"""The attention that every model of the workbench runs, registered with transformers by name.

Grouped-query heads are folded into rows: the ``groups`` query heads that share one key head become
``groups * n`` rows of that head, so keys and values are read once and never copied (transformers
repeats them per query head as soon as there is a mask). Softmax sees the same numbers either way.
On a CPU a row's result does not depend on its company (see ``_in_blocks``), so that verifying
drafts gives the text of plain decoding in bfloat16 too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

#: The name in ``config._attn_implementation``; not in transformers' mask table, so masks pass as given.
NAME = "workbench"


#: On a CPU the rows of a step are computed in blocks of 16, over a width of whole 64 columns.
ROW_BLOCK, COLUMN_BLOCK = 16, 64
#: More rows than this are a prefill, which is the same for every way to decode.
_STEP_ROWS = 80


def attend(
    module: torch.nn.Module | None, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float | None = None, dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """``query`` [B, H, n, D], ``key`` [B, K, S, D], ``value`` [B, K, S, E] -> [B, n, H, E].

    ``attention_mask``: additive [B or 1, 1, n or 1, S] in the query's dtype, or already folded
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
        if attention_mask is not None and attention_mask.shape[2] == rows:
            attention_mask = fold_mask(attention_mask, groups)
    if attention_mask is not None and rows <= _STEP_ROWS and query.device.type == "cpu":
        out = _in_blocks(query, key, value, attention_mask, scaling)
    else:
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling)
    if groups > 1:
        out = out.reshape(batch, heads, rows, -1)
    return out.transpose(1, 2).contiguous(), None


def _in_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor,
               scaling: float | None) -> torch.Tensor:
    """Attention of few rows so that a row's numbers do not depend on how many rows come with it.

    torch's CPU kernel takes other code paths for other row counts, whose sums round differently; in
    bfloat16 that turned the greedy text of every fifth prompt (64 tokens, 14 M parameters) when a
    verification had 5 rows and a plain step 1. In blocks of one shape every row runs the same code."""
    rows = query.shape[2]
    padding = -rows % ROW_BLOCK
    if padding:
        query = F.pad(query, (0, 0, 0, padding))
        if mask.shape[2] == rows and rows > 1:
            mask = F.pad(mask, (0, 0, 0, padding))
    parts = []
    for start in range(0, rows, ROW_BLOCK):
        end = start + ROW_BLOCK
        part = mask if mask.shape[2] == 1 else mask[:, :, start:end]
        parts.append(F.scaled_dot_product_attention(
            query[:, :, start:end], key, value, attn_mask=part, scale=scaling))
    out = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return out[:, :, :rows] if padding else out


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
