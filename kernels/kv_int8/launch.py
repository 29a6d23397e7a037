"""Chooses the kernel by device, and says in words what it chose."""

from __future__ import annotations

import importlib.util

import torch

from workbench.kernels.kv_int8 import cpu, reference

#: Folded query rows (queries times heads per key head) that one tile of the GPU kernel holds.
CUDA_ROWS = 128


def has_triton() -> bool:
    """Whether Triton is installed (it is optional)."""
    return importlib.util.find_spec("triton") is not None


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., D] -> int8 [..., D] and bfloat16 scales [..., 1]."""
    if x.is_cuda and has_triton():
        from workbench.kernels.kv_int8 import gpu

        return gpu.quantize(x)
    return reference.quantize(x)


def attend(query: torch.Tensor, keys: torch.Tensor, key_scales: torch.Tensor,
           values: torch.Tensor, value_scales: torch.Tensor, scaling: float | None = None
           ) -> torch.Tensor:
    """``query`` [B, H, n, D] over int8 [B, K, S, D | E] with scales [B, K, S, 1] -> [B, H, n, E]."""
    rows = query.shape[1] // keys.shape[1] * query.shape[2]
    if query.is_cuda and has_triton() and rows <= CUDA_ROWS:
        from workbench.kernels.kv_int8 import gpu

        return gpu.attend(query, keys, key_scales, values, value_scales, scaling)
    return cpu.attend(query, keys, key_scales, values, value_scales, scaling)


def describe(device: torch.device) -> str:
    """What :func:`attend` runs on this device."""
    if device.type == "cuda" and has_triton():
        return "triton kv_int8 attention"
    return "blocks of the int8 cache, running softmax"
