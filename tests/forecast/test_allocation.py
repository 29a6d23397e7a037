"""What a forecast says a run will hold is what the run held: KV cache and draft, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.events import Event, Memory
from workbench.forecast import forecast
from workbench.machine import Machine
from workbench.settings import Settings
from workbench.shape import from_file

LAPTOP = Machine("a cpu", 8, 16 << 30)
PROMPT = "def add(a, b):"


def ran(settings: Settings) -> tuple[Memory, int]:
    """(the reading with the fullest caches, prompt tokens) of a real run."""
    from workbench.runtime.model import load

    events: list[Event] = []
    model = load(settings, lambda event: None)
    try:
        output = model.generate([PROMPT] * settings.limits.batch, settings, events.append,
                                lambda: False)
    finally:
        model.close()
    readings = [e for e in events if isinstance(e, Memory) and e.tier == "ram"]
    return max(readings, key=lambda m: m.kv_bytes + m.draft_bytes), output.prompt_tokens[0]


@pytest.mark.parametrize("changes", [
    {}, {"limits.batch": 3}, {"kv": "int8"}, {"weights": "fp32"}, {"decoding": "prompt_lookup"},
    {"limits.max_new_tokens": 130}])
def test_the_cache_is_as_large_as_forecast(changes: dict[str, Any], tiny_config: Path) -> None:
    settings = Settings().with_({"model.source": str(tiny_config), "model.weights": "random",
                                 "limits.max_new_tokens": 12, **changes})
    held, prompt = ran(settings)
    (ram,) = forecast(settings, from_file(tiny_config), LAPTOP, prompt_tokens=prompt).tiers
    assert (ram.weights_bytes, ram.kv_bytes) == (held.weights_bytes, held.kv_bytes)


def test_the_draft_is_as_large_as_forecast(tiny_config: Path, monkeypatch: pytest.MonkeyPatch
                                           ) -> None:
    """In the lean form; the native executor's tables grow with the cache instead."""
    from workbench.runtime import native

    monkeypatch.setattr(native, "executor_for", lambda forward: (None, "off in this test"))
    settings = Settings().with_({"model.source": str(tiny_config), "model.weights": "random",
                                 "limits.max_new_tokens": 12, "draft": str(tiny_config)})
    held, prompt = ran(settings)
    shape = from_file(tiny_config)
    (ram,) = forecast(settings, shape, LAPTOP, draft_shape=shape, prompt_tokens=prompt).tiers
    assert (ram.kv_bytes, ram.draft_bytes) == (held.kv_bytes, held.draft_bytes)
