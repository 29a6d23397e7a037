"""What heads are built from: a norm, a residual block, a decoder layer with its own cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    """Root mean square norm, computed in float32."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] -> the same shape and dtype."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight.float()).to(x.dtype)


class Residual(nn.Module):
    """x + SiLU(W x + b), the identity at the start (Medusa, arXiv:2401.10774, section 2.1.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.silu(self.linear(x))


def rotate(x: torch.Tensor, places: torch.Tensor, theta: float = 10000.0) -> torch.Tensor:
    """Rotary embedding of ``x`` [..., heads, n, width] at positions ``places`` int64 [n] or [..., n]."""
    half = x.shape[-1] // 2
    rates = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = places.float().unsqueeze(-1) * rates
    if angles.dim() == 3:
        angles = angles.unsqueeze(1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Memory:
    """Keys and values [heads, capacity, width] of one sequence, filled in place, cut by a length."""

    def __init__(self, heads: int, capacity: int, width: int, like: torch.Tensor) -> None:
        self.keys = like.new_zeros(heads, capacity, width)
        self.values = like.new_zeros(heads, capacity, width)
        self.length = 0

    def add(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [heads, n, width]; everything so far."""
        end = self.length + keys.shape[1]
        self.keys[:, self.length:end], self.values[:, self.length:end] = keys, values
        self.length = end
        return self.keys[:, :end], self.values[:, :end]

    @property
    def nbytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()


class Layer(nn.Module):
    """A decoder layer: attention over the states so far, then a gated MLP, each after a norm."""

    def __init__(self, width: int, heads: int, kv_heads: int, inner: int, first_norm: bool = True) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, width // heads
        self.norm = Norm(width) if first_norm else nn.Identity()
        self.q = nn.Linear(width, heads * self.width, bias=False)
        self.kv = nn.Linear(width, 2 * kv_heads * self.width, bias=False)
        self.out = nn.Linear(heads * self.width, width, bias=False)
        self.mlp_norm = Norm(width)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        for matrix in (self.out, self.down):
            nn.init.normal_(matrix.weight, std=0.02 / 2 ** 0.5)

    def forward(self, x: torch.Tensor, places: torch.Tensor, mask: torch.Tensor | None = None,
                memory: Memory | None = None) -> torch.Tensor:
        """``x`` [B, n, width] at positions [n] or [B, n]. Without ``memory``: causal, or the additive
        ``mask`` [n, n]. With it (B = 1): rows see all of the memory and what ``mask`` [n, length] allows."""
        batch, n, _ = x.shape
        y = self.norm(x)
        q = self.q(y).view(batch, n, self.heads, self.width).transpose(1, 2)
        k, v = self.kv(y).view(batch, n, 2 * self.kv_heads, self.width).transpose(1, 2).chunk(2, 1)
        q, k = rotate(q, places), rotate(k, places)
        if memory is not None:
            keys, values = memory.add(k[0], v[0])
            k, v = keys[None], values[None]
        causal = mask is None and n > 1 and k.shape[2] == n
        if mask is None and n > 1 and not causal:
            mask = torch.full((n, k.shape[2]), float("-inf"), dtype=x.dtype, device=x.device)
            mask = mask.triu(k.shape[2] - n + 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, n, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)

    def memory(self, capacity: int) -> Memory:
        return Memory(self.kv_heads, capacity, self.width, self.q.weight)
