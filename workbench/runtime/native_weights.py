"""Packed modules as the product library describes matrices (``kernels/native/linear.h``)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import nn

I32 = ctypes.c_int32
_BF16 = 0


class Weight(ctypes.Structure):
    """``WbWeight``."""

    _fields_ = [("kind", I32), ("scale", I32), ("activations", I32), ("rows", I32), ("columns", I32),
                ("padded", I32), ("group", I32), ("data", ctypes.c_void_p),
                ("scales", ctypes.c_void_p)]


def why_not(module: Any) -> str:
    """Why the library cannot multiply by this module's matrix, or ""."""
    if _plain(module) or getattr(module, "native_weight", None) is not None:
        return ""
    return f"{getattr(module, 'kernel', '') or type(module).__name__} has no native product"


def describe(module: Any) -> tuple[Any, Any]:
    """(the C structure, what it points to). The module says it itself where it is packed."""
    own = getattr(module, "native_weight", None)
    if own is not None:
        return own, module
    weight = module.weight
    rows, columns = weight.shape
    return Weight(_BF16, 0, 0, rows, columns, columns, columns, weight.data_ptr(), 0), weight


def _plain(module: Any) -> bool:
    """A dense matrix as a checkpoint has it."""
    from workbench.runtime.packed import Dense

    weight = getattr(module, "weight", None)
    return (isinstance(module, (nn.Linear, Dense)) and weight.dtype == torch.bfloat16
            and weight.is_contiguous())
