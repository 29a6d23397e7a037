"""Shared: the error measure of every kernel test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch


@pytest.fixture
def relative_rms() -> Callable[[str, torch.Tensor, torch.Tensor], float]:
    """RMS of the difference over RMS of the reference, printed with its name."""
    def measure(name: str, got: torch.Tensor, reference: torch.Tensor) -> float:
        assert got.shape == reference.shape
        error = (got.double() - reference).pow(2).mean().sqrt()
        value = float(error / reference.pow(2).mean().sqrt().clamp_min(1e-30))
        print(f"{name}: relative RMS error {value:.2e}")
        return value

    return measure
