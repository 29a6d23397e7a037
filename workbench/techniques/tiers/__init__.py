"""Tiers: where each layer's weights live (GPU, RAM, disk) and how they reach the compute device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Technique

if TYPE_CHECKING:
    import torch

    from workbench.machine import Machine


@dataclass(frozen=True)
class Tiers(Technique):
    """Protocol of the family."""

    def placement(self, layers: int, machine: Machine, device: str) -> list[str]:
        """For every decoder layer the tier its weights are kept on: ``gpu``, ``ram`` or ``disk``."""
        raise NotImplementedError

    def parking(self, layers: int, device: torch.device) -> Any:
        """Where finished layers go while the model is being read, so that they never lie in memory
        together: an object with ``put(index, layer)`` and ``close()``; None keeps all in place."""
        return None

    def start(self, runtime: Any) -> Any:
        """Place the weights and hook the layers; returns the streamer with ``stop()``,
        ``bytes_by_tier()`` and ``drain_transfers()``."""
        raise NotImplementedError
