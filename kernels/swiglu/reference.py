"""The definition: gate * sigmoid(gate) * up, in float64. Shazeer 2020, arXiv:2002.05202, section 2."""

from __future__ import annotations

import torch


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """``gate``, ``up`` of one shape -> float64 of that shape."""
    g = gate.double()
    return g * torch.sigmoid(g) * up.double()
