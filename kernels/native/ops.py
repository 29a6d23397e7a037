"""Native products as torch operators, so that profilers see them by name, with their shapes.

``workbench::w4a16_matmul``, ``w4a8_matmul``, ``w8a16_matmul``, ``w8a8_matmul``: x [..., K] bfloat16 ->
[..., N] bfloat16. Registered on first use.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from workbench.kernels.native import abi, linear

_SIGNATURE = "(Tensor x, Tensor q, Tensor scales, Tensor? bias, int rows, int group) -> Tensor"
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
    return held


def _product(kind: int, activations: int, x: torch.Tensor, q: torch.Tensor, scales: torch.Tensor,
             bias: torch.Tensor | None, rows: int, group: int) -> torch.Tensor:
    weight = describe(kind, activations, q, scales, rows, x.shape[-1], group)
    y = linear.matmul(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:-1], rows)


def stored_matmul(x: torch.Tensor, module: Any) -> torch.Tensor:
    """``x`` [..., K] times the matrix of a module that describes itself (``native_weight``), bfloat16."""
    y = linear.matmul(x.reshape(-1, x.shape[-1]), module.native_weight, module.bias)
    return y.view(*x.shape[:-1], module.out_features)


def describe(kind: int, activations: int, q: torch.Tensor, scales: torch.Tensor, rows: int,
             columns: int, group: int) -> abi.Weight:
    """The C structure over these tensors."""
    make = linear.nibbles if kind == abi.INT4 else linear.octets
    return make(q, scales, rows, columns, group, activations=activations)
