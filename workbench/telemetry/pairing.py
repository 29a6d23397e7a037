"""Kernels of a replayed CUDA graph, given back their operators, modules and layers.

A graph is one launch: its kernels carry no operator. The same step run eagerly launches the same
kernels in the same order, each from an operator that a capture can see. The two orders are aligned by
name; what has no partner (a kernel that only one of them runs) stays unattributed and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from workbench.telemetry.reduction import Captured, Key, Raw, Row, launched_by, union


@dataclass(frozen=True)
class Paired:
    """``captured``: the graph's kernels by layer, module and operator. ``matched`` of ``kernels``."""

    captured: Captured
    matched: int
    kernels: int

    @property
    def share(self) -> float:
        return self.matched / self.kernels if self.kernels else 0.0


def pair(graph: Sequence[Raw], eager: Sequence[Raw], modules: Mapping[int, tuple[int, str]]) -> Paired:
    """``graph``: events of one replay; ``eager``: of one eager forward of the same phase and rows."""
    replayed = sorted((e for e in graph if e.on_device), key=lambda e: e.start_s)
    known = sorted((e for e in eager if e.on_device), key=lambda e: e.start_s)
    owners = launched_by(eager, modules)
    match = SequenceMatcher(None, [e.name for e in known], [e.name for e in replayed], autojunk=False)
    partner: dict[int, Raw] = {}
    for a, b, n in match.get_matching_blocks():
        for i in range(n):
            partner[b + i] = known[a + i]
    captured = Captured(device_events=len(replayed))
    for i, e in enumerate(replayed):
        source = partner.get(i)
        layer, module, name = owners.get(source.correlation, (-1, "", "")) if source else (-1, "", "")
        row = captured.rows.setdefault(Key(layer, module, e.name, "kernel", "gpu", name), Row())
        row.add(e.duration_s)
    if replayed:
        start = min(e.start_s for e in graph)
        captured.wall_s = max(e.end_s for e in replayed) - start
        captured.gap_s = max(0.0, captured.wall_s - union(replayed))
    return Paired(captured, len(partner), len(replayed))
