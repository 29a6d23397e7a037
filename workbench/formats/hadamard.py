"""Hadamard rotation of blocks with random signs: spreads outliers over a block, exactly undone by itself."""

from __future__ import annotations

import torch

from workbench.errors import SettingsError


def matrix(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Orthonormal, symmetric [size, size]; ``size`` a power of two. Raises SettingsError."""
    if size < 1 or size & (size - 1):
        raise SettingsError(f"Hadamard blocks have a power of two of columns, not {size}")
    h = torch.ones(1, 1, dtype=torch.float64)
    while h.shape[0] < size:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    return (h / size ** 0.5).to(dtype)


def signs(size: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """+1 or -1 [size], the same for a seed on every machine."""
    drawn = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed))
    return (drawn * 2 - 1).to(dtype)


def rotate(x: torch.Tensor, size: int, seed: int | None = None, axis: int = -1) -> torch.Tensor:
    """Blocks of ``size`` along ``axis`` times signs (with a ``seed``) times the Hadamard matrix. The same
    rotation of both operands along the contracted axis leaves a product as it was. Raises SettingsError."""
    moved = x.movedim(axis, -1)
    if moved.shape[-1] % size:
        raise SettingsError(f"{moved.shape[-1]} columns are not whole Hadamard blocks of {size}; choose a "
                            "size that divides them")
    parts = moved.unflatten(-1, (-1, size))
    if seed is not None:
        parts = parts * signs(size, seed, x.dtype).to(x.device)
    return (parts @ matrix(size, x.dtype).to(x.device)).flatten(-2).movedim(-1, axis)
