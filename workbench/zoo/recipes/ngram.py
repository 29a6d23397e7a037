"""The most frequent successor after two tokens, else after one, else of all: a baseline for heads."""

from __future__ import annotations

import numpy as np


class Successors:
    """Counts of ``rows`` [N, T] (any integer type)."""

    def __init__(self, rows: np.ndarray) -> None:
        wide = rows.astype(np.int64)
        self.base = int(wide.max()) + 1
        self._three = _best(wide[:, :-2] * self.base + wide[:, 1:-1], wide[:, 2:], self.base)
        self._two = _best(wide[:, :-1], wide[:, 1:], self.base)
        self._one = int(np.bincount(wide.ravel()).argmax())

    def next(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The guess after each pair, of their shape."""
        a, b = first.astype(np.int64), second.astype(np.int64)
        found = _look(self._two, b, np.full(b.shape, self._one))
        return _look(self._three, a * self.base + b, found)


def _best(keys: np.ndarray, after: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys and the most frequent successor of each."""
    pairs, counts = np.unique(keys.ravel() * base + after.ravel(), return_counts=True)
    order = np.lexsort((-counts, pairs // base))
    keys_sorted = (pairs // base)[order]
    first = np.unique(keys_sorted, return_index=True)[1]
    return keys_sorted[first], (pairs % base)[order][first]


def _look(table: tuple[np.ndarray, np.ndarray], keys: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    known, value = table
    at = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[at] == keys, value[at], otherwise)
