"""A session whose engine runs in this process on a tiny model with random weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import workbench as wb

pytest.importorskip("anywidget")


@pytest.fixture
def session(tiny_config: Path) -> Iterator[Any]:
    with wb.open(tiny_config, weights="random", inline=True, warm=False, max_new_tokens=12,
                 preset="off", power=False) as opened:
        yield opened


class Sent(list[dict[str, Any]]):
    """What a view sent to the page."""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m for m in self if m["kind"] == kind]


@pytest.fixture
def shown(session: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Sent]]:
    """(view, messages) of the session, with no page behind it."""
    from workbench.widgets import bench, model

    sent = Sent()
    monkeypatch.setattr(model.BenchWidget, "send",
                        lambda self, content, buffers=None: sent.append(
                            {**content, "buffers": buffers}))
    view = bench.view(session)
    yield view, sent
    view.close()


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return until
