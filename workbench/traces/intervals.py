"""Unions and overlaps of intervals, in numpy: sorted starts, running maxima of ends."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def merged(start: Array, end: Array) -> tuple[Array, Array]:
    """Disjoint intervals that cover the same points, in order."""
    if not len(start):
        return start, end
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    first = np.concatenate(([True], start[1:] > end[:-1]))
    last = np.concatenate((first[1:], [True]))
    return start[first], end[last]


def covered(start: Array, end: Array) -> float:
    """Length of the union."""
    a, b = merged(start, end)
    return float((b - a).sum())


def overlap(a: tuple[Array, Array], b: tuple[Array, Array]) -> float:
    """Length of what both unions cover."""
    total = covered(*a) + covered(*b)
    return total - covered(np.concatenate((a[0], b[0])), np.concatenate((a[1], b[1])))


def gaps(start: Array, end: Array) -> tuple[Array, Array]:
    """Between the first start and the last end, where nothing is."""
    a, b = merged(start, end)
    return b[:-1], a[1:]
