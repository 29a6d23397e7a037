"""Engines for the tests: scripted ones start in half a second, the real one is shared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.engine.client import Engine, Generate, Ticket
from workbench.engine.process import Child

HERE = str(Path(__file__).parent)


@pytest.fixture
def do() -> Callable[..., Ticket]:
    """``do(engine, script, run="r")``: submit one scripted command."""
    return _do


@pytest.fixture
def until() -> Callable[..., Any]:
    """``until(condition, timeout=20)``: wait for it; its value."""
    return _until


def _do(engine: Any, script: str, run: str = "r") -> Ticket:
    return engine.submit(Generate(run_id=run, settings={}, prompts=[script]))


def _until(condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)
    return value


@pytest.fixture
def start_scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Engine]]:
    monkeypatch.setenv("PYTHONPATH", HERE)
    made: list[Engine] = []

    def start() -> Engine:
        made.append(Engine(Child("scripted_worker")))
        return made[-1]

    yield start
    for engine in made:
        engine.close()


_shared: list[Engine] = []


@pytest.fixture
def engine(start_scripted: Callable[[], Engine]) -> Engine:
    """A ready scripted engine with nothing to do; the last test's, when it left one alive."""
    if not _shared or not _shared[-1].alive:
        _shared.append(Engine(Child("scripted_worker")))
    engine = _shared[-1]
    _until(lambda: engine.state == "ready")
    engine.poll()
    return engine


@pytest.fixture(scope="session", autouse=True)
def close_shared() -> Iterator[None]:
    yield
    for engine in _shared:
        engine.close()
