"""The engine in this process has the client's interface."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.engine.client import Engine, Unload
from workbench.engine.inline import Inline
from workbench.errors import Cancelled, EngineDied, EngineError
from workbench.events import EngineState, Token


@pytest.fixture
def inline() -> Iterator[Inline]:
    spec = importlib.util.spec_from_file_location(
        "scripted_worker", Path(__file__).parent / "scripted_worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with Inline(module.Scripted) as engine:
        yield engine


def test_it_has_every_public_name_of_the_client() -> None:
    names = {n for n in dir(Engine) if not n.startswith("_")} - {"start", "connect"}
    assert names <= set(dir(Inline))


def test_tokens_and_result(inline: Inline, do: Any) -> None:
    assert do(inline, "tokens 10").wait(10)["tokens"] == 10
    events = inline.poll()
    assert [e.index for e in events if isinstance(e, Token)] == list(range(10))
    assert [e.state for e in events if isinstance(e, EngineState)] == ["ready"]
    assert (inline.pid, inline.alive, inline.state) == (os.getpid(), True, "ready")


def test_cancel(inline: Inline, do: Any) -> None:
    running, waiting = do(inline, "tokens 100000"), do(inline, "tokens 1")
    inline.cancel(waiting)
    with pytest.raises(Cancelled, match="before it started"):
        waiting.wait(1)
    asked = time.monotonic()
    inline.cancel()
    with pytest.raises(Cancelled):
        running.wait(5)
    assert time.monotonic() - asked < 0.3


def test_a_surprise(inline: Inline, do: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match=r"failed inside \(ZeroDivisionError"):
        do(inline, "raise ZeroDivisionError").wait(5)
    assert "Traceback" in capsys.readouterr().err


def test_close(inline: Inline, do: Any) -> None:
    ticket = do(inline, "tokens 100000")
    inline.close()
    inline.close()
    assert ticket.done
    assert not inline.alive
    with pytest.raises(EngineDied, match="closed"):
        inline.submit(Unload())
    assert "workbench.engine.inline" in sys.modules
