"""The block formats of GGUF files: what their bytes mean, in float64.

From the format's definition (ggml, ``block_q8_0``, ``block_q4_0``, ``block_q4_K``), little endian:

* Q8_0, 32 columns in 34 bytes: float16 d, int8 q[32]; w = d q.
* Q4_0, 32 columns in 18 bytes: float16 d, then 16 bytes whose low nibbles are columns 0..15 and whose high
  ones are 16..31; w = d (q - 8).
* Q4_K, 256 columns in 144 bytes: float16 d, float16 m, 12 bytes with eight 6-bit scales a and eight 6-bit
  minima b, then 128 bytes: every 32 bytes hold 64 columns, low nibbles first; w = d a q - m b per 32.
"""

from __future__ import annotations

import torch

#: format -> (columns of a block, its bytes)
BLOCKS = {"Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_K": (256, 144)}


def fields(raw: torch.Tensor, form: str) -> dict[str, torch.Tensor]:
    """uint8 [N, blocks * bytes] -> the numbers of every block: ``q`` uint8 or int8 [N, K], and per block
    ``d`` float16 [N, blocks] or, for Q4_K, ``d``, ``m`` and ``a``, ``b`` uint8 [N, blocks, 8].

    Raises ValueError for a format that is not one of :data:`BLOCKS` or bytes that are no whole blocks."""
    if form not in BLOCKS:
        raise ValueError(f"{form} is not one of {', '.join(BLOCKS)}")
    size = BLOCKS[form][1]
    if raw.dim() != 2 or raw.shape[1] % size:
        raise ValueError(f"{form} rows are whole blocks of {size} bytes, not {tuple(raw.shape)}")
    blocks = raw.contiguous().view(raw.shape[0], -1, size)
    d = _half(blocks[..., :2])
    if form == "Q8_0":
        return {"q": blocks[..., 2:].contiguous().view(torch.int8).flatten(1), "d": d}
    if form == "Q4_0":
        return {"q": _nibbles(blocks[..., 2:], 16), "d": d}
    a, b = _six_bits(blocks[..., 4:16])
    return {"q": _nibbles(blocks[..., 16:], 32), "d": d, "m": _half(blocks[..., 2:4]), "a": a, "b": b}


def dequantize(raw: torch.Tensor, form: str) -> torch.Tensor:
    """uint8 [N, blocks * bytes] -> float64 [N, K]."""
    f = fields(raw, form)
    q = f["q"].double()
    n, k = q.shape
    if form == "Q4_K":
        d, m = f["d"].double()[..., None], f["m"].double()[..., None]
        scale, low = (d * f["a"].double()).flatten(1), (m * f["b"].double()).flatten(1)
        return (q.view(n, -1, 32) * scale[..., None] - low[..., None]).view(n, k)
    return ((q - (8 if form == "Q4_0" else 0)).view(n, -1, 32) * f["d"].double()[..., None]).view(n, k)


def matmul(x: torch.Tensor, raw: torch.Tensor, form: str) -> torch.Tensor:
    """``x`` [M, K] -> [M, N] float64."""
    return x.double() @ dequantize(raw, form).T


def _half(two: torch.Tensor) -> torch.Tensor:
    return two.contiguous().view(torch.float16)[..., 0]


def _nibbles(data: torch.Tensor, run: int) -> torch.Tensor:
    """[N, blocks, bytes]: of every ``run`` bytes first the low nibbles, then the high ones."""
    parts = data.reshape(data.shape[0], -1, 1, run)
    return torch.cat((parts & 15, parts >> 4), 2).flatten(1)


def _six_bits(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """12 bytes -> eight scales, eight minima. The first four are the low six bits of bytes 0..3 and 4..7;
    of the others the low four bits are in bytes 8..11 and the upper two in the top of 0..7."""
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    a = torch.cat((first & 63, (third & 15) | (first >> 6 << 4)), -1)
    b = torch.cat((second & 63, (third >> 4) | (second >> 6 << 4)), -1)
    return a, b
