"""Chooses the kernel by device and number of rows, and says in words what it chose."""

from __future__ import annotations

import importlib.util

import torch
from torch.nn import functional as F

from workbench.kernels.native import panels
from workbench.kernels.w8a16_gemm import cost, cpu, reference

#: On CUDA, more rows than this are dequantized for the vendor's matrix product.
CUDA_FUSED_ROWS = 256
#: Weights quantized at a time: their float32 temporaries take about 3 MiB.
QUANTIZE_ELEMENTS = 1 << 18


def has_triton() -> bool:
    """Whether Triton is installed (it is optional)."""
    return importlib.util.find_spec("triton") is not None


def quantize_and_pack(weight: torch.Tensor, native: bool = False
                      ) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, K] any float -> (int8 [Np, Kp], scales bfloat16 [Np]), some rows at a time; rows padded to 16
    and columns to 64 with zeros. ``native``: uint8 panels [Np / 16, Kp * 16] (``kernels/native``)."""
    n, k = weight.shape
    rows, columns = cost.padded(n, k)
    packed = torch.empty(rows, columns, dtype=torch.int8, device=weight.device)
    scale = torch.zeros(rows, dtype=torch.bfloat16, device=weight.device)
    if native:
        packed = packed.view(torch.uint8).view(-1, columns * panels.PANEL)
    step = max(1, QUANTIZE_ELEMENTS // (panels.PANEL * columns)) * panels.PANEL
    for start in range(0, n, step):
        q, found = reference.quantize(weight[start:start + step])
        scale[start:start + q.shape[0]] = found
        q = F.pad(q, (0, columns - k, 0, -q.shape[0] % panels.PANEL))
        if native:
            part = slice(start // panels.PANEL, (start + q.shape[0]) // panels.PANEL)
            packed[part] = panels.pack_bytes(q)
        else:
            packed[start:start + q.shape[0]] = q
    return packed, scale


def pack(q: torch.Tensor) -> torch.Tensor:
    """int8 [N, K] -> what the device's kernel reads, [N, Kp]; the same on every device."""
    return cpu.pack(q)


def matmul(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``x`` [M, K] bfloat16 -> [M, N]."""
    if not x.is_cuda:
        missing = q.shape[1] - x.shape[1]
        return cpu.matmul((F.pad(x, (0, missing)) if missing else x).contiguous(), q, scale)
    if has_triton() and x.shape[0] <= CUDA_FUSED_ROWS:
        from workbench.kernels.w8a16_gemm import gpu

        return gpu.matmul(x.contiguous(), q, scale)
    return F.linear(x, q[:, :x.shape[1]].to(x.dtype)) * scale


def describe(device: torch.device) -> str:
    """What :func:`matmul` runs on this device."""
    if device.type != "cuda":
        if not cpu.has_matrix_unit():
            return "torch int8 packed"
        return f"torch int8 packed to {cpu.FUSED_ROWS} rows, above that bfloat16 blocks"
    if not has_triton():
        return "dequantized to bfloat16 (no triton)"
    return f"triton w8a16 to {CUDA_FUSED_ROWS} rows, above that dequantized"
