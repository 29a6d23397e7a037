"""Where a workload turns from launch-bound to device-bound as the batch grows.

SKIP (Beyond the launch: total kernel launch and queuing time): below the turn TKLQT per kernel stays at the
cost of one launch, whatever the batch; above it kernels queue, and TKLQT grows with the batch. The turn is
found as the break of two straight pieces in logarithms, flat first, then rising.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from workbench.traces.measures import Tklqt


@dataclass(frozen=True)
class Transition:
    """``batch``: the first measured batch that is device-bound, None when none or all are (``reason`` says
    which)."""

    batch: int | None
    floor_us: float
    points: tuple[tuple[int, float], ...]
    reason: str


def transition(runs: Iterable[tuple[int, Tklqt]], rise: float = 2.0) -> Transition:
    """``runs``: (batch, measured). Device-bound is where the wait per kernel is over ``rise`` times the
    launch floor, from there on. Raises ValueError for fewer than two batches with launches."""
    points = sorted((batch, t.total_us / t.kernels) for batch, t in runs if t.kernels)
    if len(points) < 2:
        raise ValueError("the turn needs traces with launches at two batch sizes or more")
    waits = np.array([wait for _, wait in points])
    floor = float(waits[: max(1, int(np.argmax(waits > rise * waits.min())) or len(waits))].mean())
    over = waits > rise * floor
    kept = tuple((b, float(w)) for b, w in points)
    if not over.any():
        return Transition(
            None,
            floor,
            kept,
            f"launch-bound at every batch up to {points[-1][0]}: kernels wait "
            f"{floor:.1f} us, the cost of a launch",
        )
    first = len(over) - int(np.argmin(over[::-1])) if not over.all() else 0
    if first >= len(over):
        return Transition(
            None, floor, kept, "the waits rise and fall again; measure more batches or a quieter machine"
        )
    batch = points[first][0]
    return Transition(
        batch,
        floor,
        kept,
        f"device-bound from batch {batch} on: kernels wait {waits[first]:.1f} us there, "
        f"against {floor:.1f} us of launching",
    )
