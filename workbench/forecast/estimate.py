"""A number with its doubt, and bytes by use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """``low`` and ``high`` enclose about two thirds of what to expect; ``basis`` says where the
    value comes from; a value that cannot be had is None with a ``reason``."""

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    basis: str = ""
    reason: str = ""

    @classmethod
    def around(cls, value: float, factor: float, unit: str, basis: str) -> Estimate:
        """``value`` times or divided by ``factor``."""
        return cls(value, value / factor, value * factor, unit, basis)

    def error_of(self, measured: float | None) -> float | None:
        """Relative error of this estimate: +0.2 means that the run took 20 % more than forecast."""
        if self.value is None or not self.value or measured is None:
            return None
        return measured / self.value - 1


@dataclass(frozen=True)
class TierUse:
    """Bytes on one tier by use. ``workspace_bytes`` holds libraries and scratch space and is
    estimated; weights, KV and draft are exact."""

    tier: str
    weights_bytes: int = 0
    kv_bytes: int = 0
    activations_bytes: int = 0
    draft_bytes: int = 0
    workspace_bytes: int = 0
    limit_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return (self.weights_bytes + self.kv_bytes + self.activations_bytes + self.draft_bytes
                + self.workspace_bytes)

    @property
    def fits(self) -> bool:
        return not self.limit_bytes or self.total_bytes <= self.limit_bytes

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total_bytes": self.total_bytes, "fits": self.fits}
