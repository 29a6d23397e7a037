"""Chooses the kernel by device and number of rows, and says in words what it chose."""

from __future__ import annotations

import importlib.util

import torch
from torch.nn import functional as F

from workbench.kernels.native import panels
from workbench.kernels.w4a16_gemm import cpu, nibbles, reference

#: On CUDA, more rows than this are dequantized for the vendor's matrix product.
CUDA_FUSED_ROWS = 128
#: Weights quantized at a time: their temporaries take about 5 MiB (2304x768: 7.7 ms, at 2^20 10.8).
QUANTIZE_ELEMENTS = 1 << 18


def has_triton() -> bool:
    """Whether Triton is installed (it is optional)."""
    return importlib.util.find_spec("triton") is not None


def quantize_and_pack(weight: torch.Tensor, group: int, symmetric: bool, native: bool = False
                      ) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, K] any float -> (packed uint8 [Np, Kp / 2], pairs bfloat16 [Kp / group, Np, 2]); ``native``:
    panels [Np / 16, Kp * 8] and [Np / 16, Kp / group, 2, 16], as ``kernels/native/linear.h`` has them.

    Some rows at a time, because the float32 temporaries are several times the matrix; blocks of 64
    rows are whole tiles in every layout."""
    n, k = weight.shape
    rows, columns = reference.padded(n, k, group)
    packed = torch.empty(rows, columns // 2, dtype=torch.uint8, device=weight.device)
    pairs = torch.empty(columns // group, rows, 2, dtype=torch.bfloat16, device=weight.device)
    if native:
        packed, pairs = packed.view(-1, columns * 8), pairs.view(-1, columns // group, 2, panels.PANEL)
    step = max(1, QUANTIZE_ELEMENTS // (64 * columns)) * 64
    for start in range(0, n, step):
        q, found = reference.quantize(weight[start:start + step], group, symmetric)
        if native:
            part = slice(start // panels.PANEL, (start + q.shape[0]) // panels.PANEL)
            packed[part], pairs[part] = panels.pack_nibbles(q), panels.pack_scales(found)
            continue
        packed[start:start + q.shape[0]] = pack(q, group)
        pairs[:, start:start + q.shape[0]] = found
    return packed, pairs


def pack(q: torch.Tensor, group: int) -> torch.Tensor:
    """uint8 [Np, Kp] with values 0..15 -> uint8 [Np, Kp / 2] as the device's kernel reads it."""
    return nibbles.pack(q, group) if q.is_cuda else cpu.pack(q)


def dequantize(packed: torch.Tensor, pairs: torch.Tensor, dtype: torch.dtype = torch.float32
               ) -> torch.Tensor:
    """What :func:`pack` stored, as a matrix [Np, Kp]."""
    if not packed.is_cuda:
        return cpu.dequantize(packed, pairs).to(dtype)
    group = packed.shape[1] * 2 // pairs.shape[0]
    return reference.dequantize(nibbles.unpack(packed, group), pairs, dtype)


def matmul(x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """``x`` [M, K] bfloat16 -> [M, Np]; the caller drops padding rows."""
    if not x.is_cuda:
        return cpu.matmul(cpu.pad_columns(x, packed.shape[1] * 2).contiguous(), packed, pairs)
    if has_triton() and x.shape[0] <= CUDA_FUSED_ROWS:
        from workbench.kernels.w4a16_gemm import gpu

        return gpu.matmul(x.contiguous(), packed, pairs)
    weight = dequantize(packed, pairs, x.dtype)
    return F.linear(x, weight[:, :x.shape[1]])


def describe(device: torch.device) -> str:
    """What :func:`matmul` runs on this device."""
    if device.type != "cuda":
        if not cpu.has_matrix_unit():
            return "torch int4 packed"
        return f"torch int4 packed to {cpu.FUSED_ROWS} rows, above that bfloat16 blocks"
    if not has_triton():
        return "dequantized to bfloat16 (no triton)"
    return f"triton w4a16 to {CUDA_FUSED_ROWS} rows, above that dequantized"
