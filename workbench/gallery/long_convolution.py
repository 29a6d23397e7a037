"""Long convolution through a Fourier transform made of two small matrix products (FlashFFTConv).

N = N1 N2: columns times a DFT matrix, twiddle factors, rows times a DFT matrix. The kernel's transform
is kept in the same permuted order, so nothing is ever transposed back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "FlashFFTConv, arXiv:2311.05908"
LEFT_OUT = "matrix units, fusion with the gates, transforms of order three and four"
ONLY_FLOAT32 = "its transforms are complex numbers of two float32"


def dft(n: int, sign: int) -> torch.Tensor:
    """The matrix of a transform of ``n`` points, complex64 ``[n, n]``."""
    k = torch.arange(n, dtype=torch.float64)
    return torch.exp(sign * 2j * torch.pi * k[:, None] * k[None] / n).to(torch.complex64)


class LongConvolution(nn.Module):
    """Gated causal convolution over ``[B, C, T]`` with a kernel as long as the sequence."""

    def __init__(self, channels: int = 64, length: int = 512) -> None:
        super().__init__()
        self.length = length
        n = 2 * length
        self.n1 = 1 << (n.bit_length() // 2)
        self.n2 = n // self.n1
        decay = torch.exp(-torch.linspace(0, 6, length))
        self.kernel = nn.Parameter(torch.randn(channels, length) * decay / 8)
        self.gate = nn.Conv1d(channels, channels, 1)
        angles = torch.arange(self.n1)[:, None] * torch.arange(self.n2)[None] / n
        twiddle = torch.exp(-2j * torch.pi * angles).to(torch.complex64)
        self.tables = {"first": dft(self.n1, -1), "second": dft(self.n2, -1), "back1": dft(self.n1, 1),
                       "back2": dft(self.n2, 1), "twiddle": twiddle}

    def _table(self, name: str, like: torch.Tensor) -> torch.Tensor:
        return self.tables[name].to(like.device)

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        """Zero-padded ``[.., T]`` -> permuted spectrum ``[.., N1, N2]``."""
        padded = torch.nn.functional.pad(x, (0, self.length)).to(torch.complex64)
        grid = padded.view(*x.shape[:-1], self.n1, self.n2)
        return (self._table("first", x) @ grid * self._table("twiddle", x)) @ self._table("second", x)

    def back(self, spectrum: torch.Tensor) -> torch.Tensor:
        grid = spectrum @ self._table("back2", spectrum) * self._table("twiddle", spectrum).conj()
        return (self._table("back1", spectrum) @ grid).flatten(-2).real / (2 * self.length)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.back(self.transform(x) * self.transform(self.kernel))[..., :self.length]
        return mixed * torch.sigmoid(self.gate(x))


def make(batch: int) -> tuple[nn.Module, Any]:
    return LongConvolution(), torch.randn(batch, 64, 512)
