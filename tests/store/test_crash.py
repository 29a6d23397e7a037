"""Killed at any moment, full at any moment: finished runs stay whole and nothing half-written shows."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from workbench import events as ev
from workbench.errors import StoreError
from workbench.settings import Settings
from workbench.store import Store, files, log

_VICTIM = """
import sys
from workbench import events as ev
from workbench.settings import Settings
from workbench.store import Store
warm = True
while True:
    # The first run pays for the imports; it goes elsewhere so that the kills hit ordinary ones.
    store = Store(sys.argv[1] + ("-warm" if warm else ""))
    writer = store.record(Settings(), "p", "victim", environment={})
    writer.run.begin()
    for i in range(20):
        writer.add([ev.Token(t_s=i / 100, index=i, id=i, text=f"{i} ", step=i)])
    writer.finish()
    print("ready" if warm else writer.run.id, flush=True)
    warm = False
"""


def _kill_at(root, delay_s: float) -> list[str]:
    """Run the victim, kill it after ``delay_s``; the ids it said were finished."""
    process = subprocess.Popen([sys.executable, "-c", _VICTIM, str(root)], stdout=subprocess.PIPE,
                               text=True, env={**os.environ, "POLARS_MAX_THREADS": "1"})
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    lines = process.stdout.read().splitlines()
    process.wait(10)
    return [line for line in lines if len(line) == 20]


def test_kill_at_random_moments(tmp_path):
    tmp_path = tmp_path / "runs"
    rng = random.Random(5)
    finished: list[str] = []
    for _ in range(8):
        finished += _kill_at(tmp_path, rng.uniform(0.0, 0.12))
        found = {r.id: r for r in Store(tmp_path).runs()}
        assert set(finished) <= set(found)
        for run in found.values():
            assert run.status in ("done", "interrupted")
            tokens = [e for e in run.events if isinstance(e, ev.Token)]
            assert [t.index for t in tokens] == list(range(len(tokens)))
            if run.status == "done":
                assert len(tokens) == 20
            else:
                assert "ended before" in run.error
        assert Store(tmp_path).damaged() == {}
        assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".partial")] == []
    assert finished


def test_a_dead_writers_events_are_recovered(tmp_path):
    code = ("import os, sys\nfrom workbench import events as ev\nfrom workbench.settings import Settings\n"
            "from workbench.store import Store\n"
            "w = Store(sys.argv[1]).record(Settings(), 'the prompt', 'l', environment={})\n"
            "w.run.begin()\n"
            "w.add([ev.Token(t_s=0.1 * i, index=i, id=i, text='t', step=i) for i in range(5)])\n"
            "os.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.glob("*.partial"))) == 1
    run = Store(tmp_path).runs()[0]
    assert (run.status, run.text, run.prompt) == ("interrupted", "ttttt", "the prompt")
    assert run.metrics["tpot_s"].value == pytest.approx(0.1)
    assert isinstance(run.events[-1], ev.RunEnded)


def test_a_living_writer_is_left_alone(tmp_path):
    writer = Store(tmp_path).record(Settings(), "p", environment={})
    code = ("import sys\nfrom workbench.store import Store\ns = Store(sys.argv[1])\n"
            "print(len(s.runs()), [r.status for r in s.runs(live=True)])")
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                         check=True).stdout
    assert out.strip() == "0 ['running']"
    writer.add([ev.Token(index=0, id=0, text="x")])
    assert writer.finish().text == "x"


def test_a_torn_tail_is_dropped_at_every_byte(tmp_path):
    path = tmp_path / "events.log"
    writer = log.LogWriter(path)
    frames = [[ev.Token(index=i, id=i, text="héllo")] for i in range(3)]
    ends = []
    for frame in frames:
        writer.append(log.encode(frame)[1])
        ends.append(path.stat().st_size)
    writer.close()
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = sum(e <= cut for e in ends)
        events, offset = log.read(path)
        assert events == [e for f in frames[:whole] for e in f]
        assert offset == ([0, *ends][whole])


def test_a_flipped_bit_ends_the_log_there(tmp_path):
    path = tmp_path / "events.log"
    writer = log.LogWriter(path)
    for i in range(3):
        writer.append(log.encode([ev.Token(index=i, id=i, text="t")])[1])
    writer.close()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert [e.index for e in log.read(path)[0]] == [0]


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_during_the_run(tmp_path, monkeypatch):
    store = Store(tmp_path)
    before = store.record(Settings(), "p", environment={})
    before.add([ev.Token(index=0, id=0, text="old")])
    before.finish()
    writer = store.record(Settings(), "p", environment={})
    monkeypatch.setattr(log.LogWriter, "append", _full)
    for i in range(3):
        writer.add([ev.Token(index=i, id=i, text="t")])
    notes = [e.text for e in writer.run.events if isinstance(e, ev.Note)]
    assert len(notes) == 1
    assert "full; free some space" in notes[0]
    assert writer.run.text == "ttt"
    monkeypatch.setattr(files.os, "fsync", _full)
    with pytest.raises(StoreError, match=r"disk that holds .* is full"):
        writer.finish()
    assert (writer.run.status, writer.run.path, writer.run.text) == ("failed", None, "ttt")
    assert "full" in writer.run.error
    assert [r.text for r in Store(tmp_path).runs()] == ["old"]
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [before.run.id]


def test_space_that_comes_back_saves_the_run(tmp_path, monkeypatch):
    writer = Store(tmp_path).record(Settings(), "p", environment={})
    with monkeypatch.context() as patch:
        patch.setattr(log.LogWriter, "append", _full)
        writer.add([ev.Token(index=0, id=0, text="kept")])
    assert writer.finish().status == "done"
    assert Store(tmp_path).runs()[0].text == "kept"


def test_a_full_disk_refuses_to_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", _full)
    with pytest.raises(StoreError, match="set WORKBENCH_HOME"):
        Store(tmp_path).record(Settings(), "p", environment={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs file size limits")
def test_the_kernels_own_refusal(tmp_path):
    """A real failed write: the file size limit of the process, which also stops half-way."""
    code = ("import resource, signal, sys\nfrom workbench import events as ev\n"
            "from workbench.errors import StoreError\nfrom workbench.settings import Settings\n"
            "from workbench.store import Store\nimport polars\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "w = Store(sys.argv[1]).record(Settings(), 'p', environment={})\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
            "import random\nr = random.Random(0)\n"
            "w.add([ev.Token(index=i, id=i, text=str(r.random())) for i in range(3000)])\n"
            "try:\n    w.finish()\nexcept StoreError as e:\n    print(w.run.status, '|', e)")
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                         check=True).stdout
    assert out.startswith("failed |")
    assert "full" in out
    assert Store(tmp_path).runs() == []
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="recording the run failed"):
        Store(tmp_path / "runs").record(Settings(), "p", environment={})


def test_a_bug_of_ours_keeps_the_events(tmp_path, monkeypatch):
    from workbench.store import writer as writing

    def broken(*_: object) -> bytes:
        raise ValueError("a bug")

    store = Store(tmp_path)
    writer = store.record(Settings(), "p", environment={})
    writer.add([ev.Token(index=0, id=0, text="kept")])
    with monkeypatch.context() as patch:
        patch.setattr(writing, "parquet", broken)
        with pytest.raises(StoreError, match="its events are kept"):
            writer.finish()
        assert writer.run.status == "failed"
        assert Store(tmp_path).runs() == []
    assert [(r.status, r.text) for r in Store(tmp_path).runs()] == [("interrupted", "kept")]
