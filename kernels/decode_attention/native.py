"""The CPU kernel as a function of tensors. The decoder calls the same C function without this."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch

from workbench.kernels.decode_attention import abi

_ITEMS = {torch.bfloat16: abi.BF16, torch.int8: abi.INT8, torch.float32: abi.F32}


def attend(library: ctypes.CDLL, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
           base: Sequence[int], parents: Sequence[int] = (), *, first: Sequence[int] | None = None,
           key_scales: torch.Tensor | None = None, value_scales: torch.Tensor | None = None,
           scaling: float | None = None) -> torch.Tensor:
    """``query`` [B, H, n, D] over contiguous caches [B, K, capacity, D] -> float32 [B, H, n, D].

    Sequence b's rows are nodes 0 .. n - 1 in columns ``base[b]`` on; they see the columns from
    ``first[b]`` to ``base[b]`` and their own path. Scales bfloat16 [B, K, capacity, 1] for int8."""
    batch, heads, n, width = query.shape
    layout = abi.Layout(base, first or [0] * batch, parents)
    shape = abi.Attention(heads, keys.shape[1], width, keys.shape[2], _ITEMS[keys.dtype],
                          scaling or 1 / math.sqrt(width))
    flat = query.transpose(1, 2).float().contiguous()
    out = torch.empty_like(flat)
    scratch = torch.empty(library.wb_decode_attention_scratch(shape, batch, n), dtype=torch.uint8)
    kv = abi.Kv(*(_address(t) for t in (keys, values, key_scales, value_scales)))
    library.wb_decode_attention(shape, kv, layout.rows, flat.data_ptr(), out.data_ptr(),
                                scratch.data_ptr())
    return out.transpose(1, 2)


def _address(tensor: Any) -> int:
    if tensor is None:
        return 0
    assert tensor.is_contiguous(), "the kernel takes contiguous caches"
    return int(tensor.data_ptr())
