"""Native products as torch operators, so that profilers see them by name, with their shapes.

``workbench::w4a16_matmul``, ``w4a8_matmul``, ``w8a16_matmul``, ``w8a8_matmul``, ``fields_matmul`` (codes of 1
to 8 bits) and ``float8_matmul``: x [..., K] bfloat16 -> [..., N] bfloat16. Registered on first use.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from workbench.kernels.native import abi, linear

_SIGNATURE = "(Tensor x, Tensor q, Tensor scales, Tensor? bias, int rows, int group) -> Tensor"
_STORED = ("(Tensor x, Tensor q, Tensor scales, Tensor? levels, Tensor? bias, int[] form, float unit, "
           "float middle) -> Tensor")
NAMES = {(abi.INT4, abi.A16): "w4a16_matmul", (abi.INT4, abi.A8): "w4a8_matmul",
         (abi.INT8, abi.A16): "w8a16_matmul", (abi.INT8, abi.A8): "w8a8_matmul"}


@functools.cache
def operator(kind: int, activations: int) -> Any:
    """The operator of one scheme."""
    _registered()
    return getattr(torch.ops.workbench, NAMES[kind, activations]).default


@functools.cache
def _registered() -> torch.library.Library:
    held = torch.library.Library("workbench", "FRAGMENT")
    for (kind, activations), name in NAMES.items():
        held.define(name + _SIGNATURE)
        held.impl(name, functools.partial(_product, kind, activations), "CPU")
    for name in ("fields_matmul", "float8_matmul"):
        held.define(name + _STORED)
        held.impl(name, _stored, "CPU")
    return held


def _product(kind: int, activations: int, x: torch.Tensor, q: torch.Tensor, scales: torch.Tensor,
             bias: torch.Tensor | None, rows: int, group: int) -> torch.Tensor:
    weight = describe(kind, activations, q, scales, rows, x.shape[-1], group)
    y = linear.matmul(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:-1], rows)


def stored_matmul(x: torch.Tensor, weight: abi.Weight, bias: torch.Tensor | None) -> torch.Tensor:
    """``x`` [..., K] times fields or 8-bit floats, as ``workbench::fields_matmul`` or ``float8_matmul``."""
    _registered()
    q, scales, *levels = weight.kept
    name = "fields_matmul" if weight.kind == abi.FIELDS else "float8_matmul"
    form = [weight.kind, weight.scale, weight.activations, weight.rows, weight.columns, weight.padded,
            weight.group, weight.bits]
    y: torch.Tensor = getattr(torch.ops.workbench, name).default(
        x, q, scales, levels[0] if levels else None, bias, form, weight.unit, weight.middle)
    return y


def _stored(x: torch.Tensor, q: torch.Tensor, scales: torch.Tensor, levels: torch.Tensor | None,
            bias: torch.Tensor | None, form: list[int], unit: float, middle: float) -> torch.Tensor:
    kind, scale, activations, rows, columns, padded, group, bits = form
    weight = abi.Weight.over(
        (q, scales, levels), kind=kind, scale=scale, activations=activations, rows=rows, columns=columns,
        padded=padded, group=group, bits=bits, data=q.data_ptr(), scales=scales.data_ptr(),
        levels=0 if levels is None else levels.data_ptr(), unit=unit, middle=middle)
    return linear.matmul(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], rows)


def describe(kind: int, activations: int, q: torch.Tensor, scales: torch.Tensor, rows: int,
             columns: int, group: int) -> abi.Weight:
    """The C structure over these tensors."""
    make = linear.nibbles if kind == abi.INT4 else linear.octets
    return make(q, scales, rows, columns, group, activations=activations)
