"""Real runs: the time between two tokens is assigned to causes, and next to nothing is left over."""

from __future__ import annotations

from typing import Any

import pytest

import workbench as wb
from workbench import zoo
from workbench.analysis import breakdown

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not zoo.names(), reason="no bundled model")]
WATCHED = {"telemetry.preset": "kernels", "limits.max_new_tokens": 96, "limits.stop_at_eos": False}


@pytest.fixture(scope="module")
def bench() -> Any:
    session = wb.open()
    yield session
    session.close()


@pytest.mark.parametrize("changes", [
    {}, {"weights": "int4"}, {"weights": "int8", "kv": "int8"}, {"weights": "int4", "draft": "auto"},
    {"decoding": "token_recycling"}, {"tiers": "stream", "limits.max_new_tokens": 24}], ids=str)
def test_at_least_97_percent_of_a_step_has_a_cause(bench: Any, changes: dict[str, Any]) -> None:
    run = bench.run("def add(a, b):\n", wait=True, **{**WATCHED, **changes})
    step = breakdown(run.events)
    assert sum(step.parts.values()) == pytest.approx(step.total_ms, rel=0.01)
    assert step.parts.get("other", 0.0) <= 0.03 * step.total_ms
    assert all(ms >= -1e-9 for ms in step.parts.values())
