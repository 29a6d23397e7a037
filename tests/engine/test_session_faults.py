"""An engine that is killed under a session: one sentence, the next run works, the store is whole."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import workbench as wb
from workbench.store import Store


def test_killed_under_a_session(tiny_config: Path, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    quiet = {"telemetry.preset": "off", "telemetry.power": False, "limits.stop_at_eos": False}
    store = Store(tmp_path)
    with wb.open(tiny_config, weights="random", store=store, **quiet) as session:
        first = session.run("a", **{"limits.max_new_tokens": 5}, wait=True)
        long = session.run("b", **{"limits.max_new_tokens": 6000})
        while len(long.text) < 5:
            time.sleep(0.005)
        engine = session._dispatcher.engine
        assert engine is not None
        os.kill(engine.pid, signal.SIGKILL)
        killed = time.monotonic()
        long.wait(10)
        assert time.monotonic() - killed < 2
        assert long.status == "failed"
        assert "signal 9" in session.message
        assert "\n" not in session.message
        last = session.run("c", **{"limits.max_new_tokens": 5}, wait=True)
        assert last.status == "done"
        assert session._dispatcher.engine is not None
        assert session._dispatcher.engine.pid != engine.pid
    runs = {r.id: r for r in Store(tmp_path).runs()}
    assert {first.id, long.id, last.id} <= set(runs)
    assert [runs[r.id].status for r in (first, long, last)] == ["done", "failed", "done"]
    assert runs[first.id].text == first.text
    assert runs[long.id].text.startswith(long.text[:5])


def test_inline_gives_the_same_text_as_the_process(tiny_config: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    texts = []
    for inline in (True, False):
        with wb.open(tiny_config, weights="random", inline=inline, store=Store(tmp_path),
                     **{"compute.threads": 1}) as session:
            run = session.run("def f(", wait=True, **{"limits.max_new_tokens": 12})
            assert run.status == "done"
            assert session._dispatcher.engine is not None
            assert (session._dispatcher.engine.pid == os.getpid()) == inline
            texts.append(run.text)
    assert texts[0] == texts[1] != ""
