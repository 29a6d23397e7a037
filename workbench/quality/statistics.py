"""Means with honest error bars over a stream of tokens.

Neighbouring tokens of a text are not independent draws, so a standard error from single tokens is
too small. Tokens are grouped in blocks, block means are treated as independent (batch means,
Flegal and Jones 2010, arXiv:0811.1729); with too few blocks the token-level error is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

_BLOCK = 32
_LEAST_BLOCKS = 8


@dataclass
class Series:
    """Values of one quantity, one per scored token, in order."""

    _parts: list[np.ndarray] = field(default_factory=list)

    def add(self, values: np.ndarray) -> None:
        """Append [n] float values."""
        self._parts.append(np.asarray(values, dtype=np.float64))

    def values(self) -> np.ndarray:
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0] if self._parts else np.zeros(0)

    def __len__(self) -> int:
        return sum(len(p) for p in self._parts)


def mean_and_error(values: np.ndarray) -> tuple[float, float | None]:
    """(mean, standard error); the error is None for fewer than two values."""
    n = len(values)
    if n == 0:
        return math.nan, None
    mean = float(values.mean())
    blocks = n // _BLOCK
    if blocks >= _LEAST_BLOCKS:
        means = values[:blocks * _BLOCK].reshape(blocks, _BLOCK).mean(1)
        return mean, float(means.std(ddof=1) / math.sqrt(blocks))
    return mean, float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None


def perplexity(nll: np.ndarray) -> tuple[float, float | None]:
    """exp of the mean negative log-likelihood [n], and its error by the delta method."""
    mean, error = mean_and_error(nll)
    value = math.exp(mean) if mean < 700 else math.inf
    return value, None if error is None else value * error


def quantile(values: np.ndarray, q: float) -> tuple[float, float | None]:
    """(quantile, standard error) with the error from the order statistics one binomial standard
    deviation to each side (distribution-free, David and Nagaraja 2003, section 7.1)."""
    n = len(values)
    if n == 0:
        return math.nan, None
    ranked = np.sort(values)
    spread = math.sqrt(n * q * (1 - q))
    low = ranked[max(0, int(q * n - spread))]
    high = ranked[min(n - 1, math.ceil(q * n + spread))]
    return float(np.quantile(ranked, q)), float(high - low) / 2 if n > 10 else None
