"""Modules with matrices, as the product library describes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.kernels.native import linear


def why_not(module: Any) -> str:
    """Why the library cannot multiply by this module's matrix, or ""."""
    if _plain(module) or _packed(module) is not None:
        return ""
    return f"{getattr(module, 'kernel', '') or type(module).__name__} has no native product"


def describe(module: Any) -> tuple[Any, Any]:
    """(the C structure, what it points to). A packed module says it itself."""
    own = _packed(module)
    if own is not None:
        return own, module
    return linear.dense(module.weight.detach()), module.weight


def _packed(module: Any) -> Any:
    return getattr(module, "native_weight", None)


def _plain(module: Any) -> bool:
    """A dense matrix as a checkpoint has it."""
    from workbench.runtime.packed import Dense

    if not isinstance(module, (nn.Linear, Dense)):
        return False
    weight = module.weight
    return weight.dtype == torch.bfloat16 and weight.is_contiguous() and weight.device.type == "cpu"
