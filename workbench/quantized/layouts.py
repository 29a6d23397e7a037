"""One matrix in each format: (codes, scales, zero points) <-> the tensors that the format stores.

q uint8 [rows, columns]; scale float [rows, groups]; zero uint8 [rows, groups]; w = (q - zero) scale.

compressed-tensors (pack-quantized): ``weight_packed`` along columns, ``weight_scale`` bfloat16,
``weight_zero_point`` packed along rows and only where there are any, ``weight_shape``.
GPTQ: ``qweight`` packed along columns and transposed, ``qzeros`` packed along rows (of zero - 1 in the
first version), ``scales`` float16 [groups, rows], ``g_idx``: the group of each column.
AWQ (gemm): ``qweight`` and ``qzeros`` packed along rows, eight to a word in the order 0 2 4 6 1 3 5 7.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from workbench.errors import ModelError
from workbench.quantized import bits
from workbench.quantized.scheme import Scheme

Codes = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
#: Where a format says which group each column belongs to.
ORDER = {"gptq": "g_idx", "compressed-tensors": "weight_g_idx"}
#: The first tensor that a matrix has in each format, which shows that it is there.
FIRST = {"compressed-tensors": "weight_packed", "gptq": "qweight", "awq": "qweight"}
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def write(codes: Codes, scheme: Scheme) -> dict[str, torch.Tensor]:
    """Suffix -> tensor."""
    return {"gptq": _write_gptq, "awq": _write_awq, "compressed-tensors": _write_compressed}[
        scheme.format](codes, scheme)


def read(get: Callable[[str], torch.Tensor], has: Callable[[str], bool], scheme: Scheme,
         shape: tuple[int, int]) -> Codes:
    """``get`` and ``has`` by suffix; ``shape`` [rows, columns] as the config asks for."""
    return {"gptq": _read_gptq, "awq": _read_awq, "compressed-tensors": _read_compressed}[
        scheme.format](get, has, scheme, shape)


def order(groups: torch.Tensor | None, scheme: Scheme, columns: int) -> torch.Tensor | None:
    """``groups`` int [columns]: the group of each. Columns in the order that makes every group a run, or
    None where they are runs already. Raises ModelError where groups are not of the stated size."""
    width = scheme.group or columns
    if groups is None or bool((groups < 0).all()):
        return None
    found, plain = torch.argsort(groups, stable=True), torch.arange(columns)
    if not torch.equal(groups[found].long(), plain // width):
        raise ModelError(f"the {scheme.format} checkpoint's groups do not have {width} columns each; it is "
                         "damaged, so copy or download it again")
    return None if torch.equal(found, plain) else found


# -- compressed-tensors --------------------------------------------------------------------------


def _write_compressed(codes: Codes, scheme: Scheme) -> dict[str, torch.Tensor]:
    q, scale, zero = codes
    found = {"weight_packed": bits.pack(q, scheme.bits), "weight_scale": scale.to(torch.bfloat16),
             "weight_shape": torch.tensor(q.shape)}
    if not scheme.symmetric:
        found["weight_zero_point"] = bits.pack(zero.t(), scheme.bits).t().contiguous()
    return found


def _read_compressed(get: Callable[[str], torch.Tensor], has: Callable[[str], bool], scheme: Scheme,
                     shape: tuple[int, int]) -> Codes:
    rows, columns = shape
    scale = get("weight_scale").float().view(rows, -1)
    q = bits.unpack(get("weight_packed"), scheme.bits, columns)
    if has("weight_zero_point"):
        zero = bits.unpack(get("weight_zero_point").t(), scheme.bits, rows).t()
    else:
        zero = torch.full(scale.shape, 1 << (scheme.bits - 1), dtype=torch.uint8)
    return q, scale, zero


# -- GPTQ ----------------------------------------------------------------------------------------


def _write_gptq(codes: Codes, scheme: Scheme) -> dict[str, torch.Tensor]:
    q, scale, zero = codes
    shift = 1 if scheme.variant == "gptq" else 0
    zero = (zero.int() - shift & (1 << scheme.bits) - 1).to(torch.uint8)
    columns = q.shape[1]
    return {"qweight": bits.pack(q, scheme.bits).t().contiguous(),
            "qzeros": bits.pack(zero.t(), scheme.bits), "scales": scale.t().to(torch.float16).contiguous(),
            "g_idx": torch.arange(columns, dtype=torch.int32) // (scheme.group or columns)}


def _read_gptq(get: Callable[[str], torch.Tensor], has: Callable[[str], bool], scheme: Scheme,
               shape: tuple[int, int]) -> Codes:
    rows, columns = shape
    q = bits.unpack(get("qweight").t(), scheme.bits, columns)
    zero = bits.unpack(get("qzeros"), scheme.bits, rows).t()
    shift = 1 if scheme.variant == "gptq" else 0
    zero = (zero.int() + shift & (1 << scheme.bits) - 1).to(torch.uint8)
    return q, get("scales").t().float(), zero


# -- AWQ -----------------------------------------------------------------------------------------


def _write_awq(codes: Codes, scheme: Scheme) -> dict[str, torch.Tensor]:
    q, scale, zero = codes
    return {"qweight": _awq_words(q.t()), "qzeros": _awq_words(zero.t()),
            "scales": scale.t().to(torch.float16).contiguous()}


def _awq_words(q: torch.Tensor) -> torch.Tensor:
    """[n, rows] -> int32 [n, rows / 8]; rows a multiple of 8."""
    if q.shape[1] % 8:
        raise ModelError(f"AWQ files pack rows by eights and a matrix has {q.shape[1]}; choose "
                         "compressed-tensors or gptq")
    parts = q.reshape(q.shape[0], -1, 8)[..., list(_AWQ_ORDER)]
    return bits.pack(parts.reshape(q.shape[0], -1), 4)


def _awq_numbers(words: torch.Tensor, rows: int) -> torch.Tensor:
    parts = bits.unpack(words, 4, rows).view(len(words), -1, 8)
    back = [_AWQ_ORDER.index(i) for i in range(8)]
    return parts[..., back].reshape(len(words), rows)


def _read_awq(get: Callable[[str], torch.Tensor], has: Callable[[str], bool], scheme: Scheme,
              shape: tuple[int, int]) -> Codes:
    rows, _ = shape
    return (_awq_numbers(get("qweight"), rows).t().contiguous(), get("scales").t().float(),
            _awq_numbers(get("qzeros"), rows).t())
