"""The compiled library of kernels, as the runtime asks for it."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any


def _module() -> Any:
    try:
        return importlib.import_module("workbench.kernels.native")
    except ImportError:
        return None


def available() -> bool:
    module = _module()
    return module is not None and bool(module.available())


def why_not() -> str:
    module = _module()
    return "this installation has no compiled kernels" if module is None else str(module.why_not())


def load() -> ctypes.CDLL:
    found: ctypes.CDLL = _module().library()
    return found


def isa() -> str:
    return str(_module().isa())
