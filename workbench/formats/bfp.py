"""Block floating point: one 8-bit exponent and short signed mantissas per block; sorting of key channels.

BFP(block, m): e = floor(log2 max|x|), step 2^(e - (m - 2)), mantissas -(2^(m - 1) - 1) .. 2^(m - 1) - 1, m
bits with the sign; BFP12 is m = 4 with an 8-bit exponent (Trukhanov and Soloveychik 2024, arXiv:2403.20137,
sections 2 and 4). K-sort orders the rows of W_k by norm and those of W_q alike, so q k^T stays and outlier
channels share blocks. With rotary embeddings only whole pairs (i, i + d / 2) may move, and the table of
angles moves along.
"""

from __future__ import annotations

import torch

from workbench.errors import SettingsError
from workbench.formats import elements
from workbench.formats.blocks import Format
from workbench.formats.scales import Rule

EXPONENT_BITS = 8


def format_of(mantissa: int, block: int) -> Format:
    """The block format. Integers of ``mantissa`` bits have the top exponent m - 2, so the power-of-two rule
    gives the paper's step; sign and magnitude keep the lowest code of two's complement out. Raises
    SettingsError."""
    if not 2 <= mantissa <= 8:
        raise SettingsError(f"mantissas have 2 to 8 bits with their sign, not {mantissa}")
    if block < 1:
        raise SettingsError(f"blocks have at least one column, not {block}")
    return Format(f"bfp{mantissa}", _symmetric(mantissa), block, Rule("e8m0"))


def _symmetric(bits: int) -> elements.Element:
    half = tuple(float(i) for i in range(1 << (bits - 1)))
    return elements.Element(f"m{bits}", bits, (*half, *(-v for v in half)), mirrored=True)


def sorted_order(norms: torch.Tensor, heads: int, mode: str = "norm") -> torch.Tensor:
    """Order of the rows of one key projection: int64 [rows], largest norm first inside every head.

    ``norms`` [rows] = [heads x head_dim]. ``mode`` "norm": every channel on its own (no rotary embedding);
    "pair": channels i and i + d / 2 move together and stay d / 2 apart. Raises SettingsError."""
    if mode not in ("norm", "pair"):
        raise SettingsError(f"channels are sorted by norm or in pairs, not by {mode!r}")
    if norms.numel() % heads or (mode == "pair" and norms.numel() // heads % 2):
        raise SettingsError(f"{norms.numel()} rows do not make {heads} heads of an even width")
    per = norms.view(heads, -1)
    width = per.shape[1]
    if mode == "pair":
        joint = per[:, :width // 2].square() + per[:, width // 2:].square()
        half = joint.argsort(dim=1, descending=True, stable=True)
        order = torch.cat((half, half + width // 2), 1)
    else:
        order = per.argsort(dim=1, descending=True, stable=True)
    base = torch.arange(heads, device=norms.device)[:, None] * width
    return (order + base).view(-1)


def query_order(order: torch.Tensor, key_heads: int, query_heads: int) -> torch.Tensor:
    """The order that the rows of W_q take when those of W_k take ``order``: every query head follows the
    key head that it reads (grouped queries). int64 [query_heads x head_dim]."""
    width = order.numel() // key_heads
    inside = order.view(key_heads, width) - torch.arange(key_heads, device=order.device)[:, None] * width
    shared = inside.repeat_interleave(query_heads // key_heads, 0)
    return (shared + torch.arange(query_heads, device=order.device)[:, None] * width).view(-1)
