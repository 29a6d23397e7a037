"""All weights on the compute device: the baseline of the placement lab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.tiers import Tiers

if TYPE_CHECKING:
    from workbench.machine import Machine


@dataclass(frozen=True)
class Resident(Tiers):
    """Every layer's weights stay on the compute device."""

    title = "all resident"

    def placement(self, layers: int, machine: Machine, device: str) -> list[str]:
        return ["gpu" if device.startswith("cuda") else "ram"] * layers
