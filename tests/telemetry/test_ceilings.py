"""The machine's ceilings: plausible, cached with date and spread, cancellable."""

from __future__ import annotations

import json

import pytest

from workbench.errors import Cancelled
from workbench.events import Event, Progress
from workbench.machine import ceilings_path, this_machine
from workbench.telemetry import ceilings


def test_measured_once_cached_and_plausible() -> None:
    assert this_machine().ceilings == {}
    events: list[Event] = []
    found = ceilings.measure(events.append, lambda: False)
    assert this_machine().ceilings == found
    assert this_machine().measured_on
    assert 1e8 < found["ram_bytes_per_s"] < 1e12
    assert 1e8 < found["gemm_fp32_flops"] < 1e14
    assert 1e-8 < found["dispatch_s"] < 1e-2
    progress = [e for e in events if isinstance(e, Progress)]
    assert progress[-1].done == progress[-1].total == len(progress) - 1
    stored = json.loads(ceilings_path(this_machine().fingerprint).read_text())
    assert set(stored["spread"]) == set(found)
    assert all(0 <= s < 1 for s in stored["spread"].values())


def test_cancelling_keeps_what_was_there() -> None:
    ceilings.save({"ram_bytes_per_s": 1.0}, {})
    with pytest.raises(Cancelled):
        ceilings.measure(lambda event: None, lambda: True)
    assert this_machine().ceilings == {"ram_bytes_per_s": 1.0}


def test_products_of_packed_matrices_are_measured() -> None:
    """Stored bytes per second: four bits reach at most what plain reading does, give or take noise."""
    for name in ceilings.PRODUCTS:
        rate, spread = ceilings.product(name, "cpu", 2)
        assert 1e7 < rate < 1e12, name
        assert 0 <= spread < 1
