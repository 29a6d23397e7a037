"""Packed modules as the product library describes matrices."""

from __future__ import annotations

from typing import Any


def why_not(module: Any) -> str:
    """Why the library cannot multiply by this module's matrix, or ""."""
    return f"{type(module).__name__} matrices have no native product"


def describe(module: Any) -> tuple[Any, Any]:
    """(the C structure, what it points to)."""
    raise NotImplementedError(why_not(module))
