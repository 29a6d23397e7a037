"""Torch: pack and unpack whole groups; any device."""

from __future__ import annotations

import torch

from workbench.kernels.kivi import packing, reference


def pack_keys(keys: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, K, n, D] with n a multiple of ``group`` -> uint8 [B, K, n / group, group bits / 8, D] and bfloat16
    pairs [B, K, n / group, 2, D]."""
    codes, pairs = reference.quantize(keys, bits, 2, group)
    return packing.pack(codes.unflatten(2, (-1, group)), bits, 3), pairs.movedim(-1, 3)


def unpack_keys(packed: torch.Tensor, pairs: torch.Tensor, bits: int, dtype: torch.dtype) -> torch.Tensor:
    """Inverse of :func:`pack_keys` -> [B, K, n, D], rounded once."""
    codes = packing.unpack(packed, bits, 3)
    scale, offset = pairs.float()[:, :, :, 0, None], pairs.float()[:, :, :, 1, None]
    return torch.addcmul(offset, codes.float(), scale).to(dtype).flatten(2, 3)


def pack_values(values: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, K, n, E] with E a multiple of ``group`` -> uint8 [B, K, n, E bits / 8] and pairs [B, K, n, E /
    group, 2]."""
    codes, pairs = reference.quantize(values, bits, 3, group)
    return packing.pack(codes, bits, 3), pairs


def unpack_values(packed: torch.Tensor, pairs: torch.Tensor, bits: int, dtype: torch.dtype) -> torch.Tensor:
    """Inverse of :func:`pack_values` -> [B, K, n, E], rounded once."""
    codes = packing.unpack(packed, bits, 3).unflatten(3, (pairs.shape[3], -1)).float()
    scale, offset = pairs.float()[..., 0:1], pairs.float()[..., 1:2]
    return torch.addcmul(offset, codes, scale).to(dtype).flatten(3)
