"""Rotary frequencies that a file lists, and the parameters of Llama 3.1's scaling that made them.

GGUF keeps the divisors of every frequency (``rope_freqs.weight``), transformers the four numbers from
which they follow (Llama 3.1, "llama3" in transformers' modeling_rope_utils).
"""

from __future__ import annotations

import math
from typing import Any

#: What every published Llama 3 uses besides the factor.
LOW, HIGH, ORIGINAL = 1.0, 4.0, 8192


def divisors(parameters: dict[str, Any], theta: float, width: int) -> list[float]:
    """[width / 2] numbers that divide the frequencies."""
    factor = float(parameters["factor"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    original = float(parameters["original_max_position_embeddings"])
    found = []
    for i in range(width // 2):
        length = 2 * math.pi * theta ** (2 * i / width)
        if length < original / high:
            found.append(1.0)
        elif length > original / low:
            found.append(factor)
        else:
            smooth = (original / length - low) / (high - low)
            found.append(1.0 / ((1.0 - smooth) / factor + smooth))
    return found


def parameters(listed: list[float], theta: float) -> dict[str, Any] | None:
    """The scaling that gives these divisors, or None when Llama 3's rule does not."""
    made = {"rope_type": "llama3", "rope_theta": theta, "factor": round(max(listed), 6),
            "low_freq_factor": LOW, "high_freq_factor": HIGH,
            "original_max_position_embeddings": ORIGINAL}
    again = divisors(made, theta, 2 * len(listed))
    close = all(abs(a - b) <= 1e-3 * b for a, b in zip(again, listed, strict=True))
    return made if close else None
