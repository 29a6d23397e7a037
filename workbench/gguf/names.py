"""Tensor names of transformers and of GGUF, and the order of rows that differs between them.

llama.cpp rotates neighbouring pairs of a head's rows, transformers its two halves, so files of the
architecture ``llama`` hold the rows of q and k in another order (llama.cpp, convert_hf_to_gguf.py,
``permute``). A permutation of rows commutes with blocks along the columns.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: transformers' ``model_type`` -> the architecture that a file names.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_THEIRS = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_OURS = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")


def to_gguf(name: str) -> str | None:
    """``model.layers.3.mlp.up_proj.weight`` -> ``blk.3.ffn_up.weight``; None: no counterpart."""
    found = _THEIRS.fullmatch(name)
    if found:
        part = _LAYER.get(found[2])
        return f"blk.{found[1]}.{part}.{found[3]}" if part else None
    stem, _, kind = name.rpartition(".")
    return f"{_WHOLE[stem]}.{kind}" if stem in _WHOLE else None


def from_gguf(name: str) -> str | None:
    """The inverse of :func:`to_gguf`."""
    found = _OURS.fullmatch(name)
    if found:
        part = next((k for k, v in _LAYER.items() if v == found[2]), None)
        return f"model.layers.{found[1]}.{part}.{found[3]}" if part else None
    stem, _, kind = name.rpartition(".")
    whole = next((k for k, v in _WHOLE.items() if v == stem), None)
    return f"{whole}.{kind}" if whole else None


def heads_of(name: str, architecture: str, heads: int, kv_heads: int) -> int:
    """How many heads' rows a tensor (GGUF's name) has in the file's own order; 0: none."""
    if architecture != "llama":
        return 0
    part = name.split(".")[2] if name.startswith("blk.") else ""
    return {"attn_q": heads, "attn_k": kv_heads}.get(part, 0)


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """transformers' order of rows [heads * d, ...] -> the file's."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def separate(rows: np.ndarray, heads: int) -> np.ndarray:
    """The file's order of rows -> transformers'; undoes :func:`interleave`."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
