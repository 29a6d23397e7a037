"""Workspaces over a scripted engine: queues, isolation and drawing without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.apps.scripted import ScriptedEngine
from workbench.apps.hub import Hub, Lifetimes
from workbench.apps.policy import Policy
from workbench.settings import Settings

MakeHub = Callable[..., Hub]


@pytest.fixture
def settings(tiny_config: Path) -> Settings:
    return Settings().with_({"model.source": str(tiny_config), "model.weights": "random"})


@pytest.fixture
def make_hub(settings: Settings, tiny_config: Path) -> Iterator[MakeHub]:
    """``make_hub(engine, policy=..., lifetimes=...)``; closed at the end."""
    made: list[Hub] = []

    def make(engine: ScriptedEngine | None = None, *, lifetimes: Lifetimes | None = None,
             **limits: object) -> Hub:
        engines = iter([engine] if engine else [])
        policy = Policy(folders=(tiny_config.parent,), **limits)  # type: ignore[arg-type]
        hub = Hub(settings=settings, policy=policy, lifetimes=lifetimes,
                  start_engine=lambda: next(engines, None) or ScriptedEngine())
        made.append(hub)
        return hub

    yield make
    for hub in made:
        hub.close()
