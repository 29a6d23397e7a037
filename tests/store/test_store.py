"""Recording, reading, changing: what goes in comes out."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import sqlite3
import time
from pathlib import Path

import pytest

from workbench import events as ev
from workbench.errors import SettingsError, StoreError
from workbench.settings import Settings
from workbench.store import Run, Store, replay, runs


def record(store: Store, events: list[ev.Event], label: str = "a label", **more: object) -> Run:
    writer = store.record(Settings(), "a prompt", label, environment={}, **more)
    writer.run.begin()
    writer.add(events)
    return writer.finish()


def test_a_finished_run_reads_back_as_it_was(synthetic):
    store = Store()
    events = synthetic.plain() + synthetic.kernels() + synthetic.power()
    live = record(store, events)
    read = Store().open(live.id)
    assert read.events[:len(events)] == events
    assert (read.id, read.label, read.prompt, read.status, read.text) == (
        live.id, "a label", "a prompt", "done", "word " * 10)
    assert read.requested == Settings()
    assert read.effective["kv"] == {
        "requested": "int8", "effective": "full", "honoured": False, "reason": "why not"}
    assert read.metrics == live.metrics
    assert {m.name for m in read.events if isinstance(m, ev.Metric)} == set(read.metrics)
    assert read.frame().height == len(read.events)


def test_every_event_type_survives_the_parquet_file():
    from workbench.analysis.frames import fields

    samples = {bool: True, int: 7, float: 0.25, str: "x"}
    given = [cls(**{n: samples[k] for n, k in fields(cls).items()}) for cls in ev.TYPES.values()]
    given.append(ev.Metric(name="a", value=None))
    run = record(Store(), given)
    assert Store().open(run.id).events[:len(given)] == given


def test_the_bundle_has_its_four_files_and_nothing_else(synthetic):
    run = record(Store(), synthetic.plain())
    assert {f.name for f in run.path.iterdir()} == {
        "run.json", "events.parquet", "output.txt", "trace.json.gz"}
    assert (run.path / "output.txt").read_text() == run.text
    assert json.loads((run.path / "run.json").read_text())["status"] == "done"
    trace = json.loads(gzip.decompress((run.path / "trace.json.gz").read_bytes()))
    assert any(e["ph"] == "X" for e in trace["traceEvents"])


def test_a_live_run_grows_and_ends(synthetic):
    store = Store()
    writer = store.record(Settings(), "p", environment={})
    assert writer.run.status == "queued"
    writer.run.begin()
    events = synthetic.plain()
    writer.add(events[:6])
    first, cursor = writer.run.since(0)
    assert (writer.run.status, len(first), writer.run.text) == ("running", 6, "word ")
    assert writer.run.metrics["new_tokens"].value == 1
    writer.add(events[6:])
    rest, _ = writer.run.since(cursor)
    assert first + rest == events
    assert not writer.run.wait(0)
    writer.finish(status="cancelled")
    assert writer.run.wait(0)
    assert writer.run.status == "cancelled"
    assert store.runs() == [writer.run]


def test_runs_prints_as_a_table_and_newest_first(synthetic):
    store = Store()
    ids = ["20260101-000000-aaaa", "20260102-000000-bbbb"]
    for i in ids:
        record(store, synthetic.plain(), label="<b>x</b>", run_id=i)
    found = runs()
    assert [r.id for r in found] == ids[::-1]
    assert ids[0] in repr(found)
    assert "<b>" not in found._repr_html_()
    assert "&lt;b&gt;" in found._repr_html_()
    assert repr(Store("/nonexistent").runs()) == "no runs yet"


def test_open_by_prefix_label_latest_and_path(synthetic):
    store = Store()
    a = record(store, synthetic.plain(), label="first", run_id="20260101-000000-aaaa")
    b = record(store, synthetic.plain(), label="second", run_id="20260102-000000-bbbb")
    assert store.open("20260101").id == a.id
    assert store.open("second").id == b.id
    assert store.open("latest").id == b.id
    assert store.open(a.path).id == a.id
    with pytest.raises(StoreError, match="write more of it"):
        store.open("2026")
    with pytest.raises(StoreError, match="no run 'nothing'"):
        store.open("nothing")
    with pytest.raises(StoreError, match="no run folder"):
        store.open("/no/where")


def test_rename_and_delete(synthetic):
    store = Store()
    run = record(store, synthetic.plain())
    store.rename(run.id, "new name")
    assert Store().open(run.id).label == "new name"
    assert Store().runs()[0].label == "new name"
    store.delete(run.id)
    assert store.runs() == []
    assert [p for p in store.root.iterdir() if p.is_dir()] == []
    with pytest.raises(StoreError):
        store.delete("20260101-000000-aaaa")


def test_the_index_is_rebuilt_when_it_is_damaged_or_gone(synthetic):
    store = Store()
    run = record(store, synthetic.plain())
    assert len(store.runs()) == 1
    index = store.root / "index.sqlite"
    index.write_bytes(b"this is not a database" * 100)
    assert [r.id for r in Store().runs()] == [run.id]
    assert sqlite3.connect(index).execute("SELECT count(*) FROM runs").fetchone() == (1,)
    for file in store.root.glob("index.sqlite*"):
        file.unlink()
    assert [r.id for r in Store().runs()] == [run.id]


def test_a_damaged_bundle_is_left_out_and_named(synthetic):
    store = Store()
    good, bad = record(store, synthetic.plain()), record(store, synthetic.plain())
    (bad.path / "run.json").write_text("{")
    assert [r.id for r in Store().runs()] == [good.id]
    assert "is damaged" in Store().damaged()[bad.id]
    with pytest.raises(StoreError, match="is damaged"):
        Store().open(bad.id)
    (good.path / "events.parquet").write_bytes(b"nothing")
    read = Store().open(good.id)
    assert read.metrics["new_tokens"].value == 10
    with pytest.raises(StoreError, match="summary"):
        _ = read.events


def test_a_later_format_is_refused(synthetic):
    run = record(Store(), synthetic.plain())
    data = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**data, "format": 99}))
    with pytest.raises(StoreError, match="later version"):
        Store().open(run.id)


def test_settings_of_another_version_do_not_hide_the_run(synthetic):
    run = record(Store(), synthetic.plain())
    data = json.loads((run.path / "run.json").read_text())
    data["requested"]["weights"] = {"name": "int3"}
    (run.path / "run.json").write_text(json.dumps(data))
    read = Store().open(run.id)
    assert read.text
    assert read.settings_dict["weights"] == {"name": "int3"}
    with pytest.raises(SettingsError, match="int3"):
        _ = read.requested


def test_unicode_surrogates_and_non_finite_numbers():
    odd = "é 漢 \U0001f600 \u2028 <script> \x00 "
    events = [ev.Token(index=0, id=1, text=odd + "\ud800"),
              ev.Quality(metric="perplexity", value=float("inf"))]
    store = Store()
    writer = store.record(Settings(), "prompt \udfff", odd, environment={})
    writer.add(events)
    writer.finish()
    read = Store().open(writer.run.id)
    assert read.text == odd + "\ufffd"
    assert read.prompt == "prompt \ufffd"
    assert read.metrics["perplexity"].value is None
    assert read.metrics["perplexity"].reason == "the value is inf"
    assert read.events[1].value == float("inf")


def test_a_hundred_thousand_events_are_quick():
    store = Store()
    writer = store.record(Settings(), "p", environment={})
    start = time.perf_counter()
    for k in range(1000):
        writer.add([ev.Token(t_s=k + i / 100, index=i, id=i, text=" w", step=k) for i in range(100)])
    added = time.perf_counter() - start
    run = writer.finish()
    assert added < 5
    assert len(Store().open(run.id).events) == 100_000 + len(run.metrics)
    assert time.perf_counter() - start < 25


def test_a_huge_text_is_whole():
    text = "x" * 5_000_000
    run = record(Store(), [ev.Token(index=0, id=1, text=text)])
    assert Store().open(run.id).text == text


def test_owners_see_their_own(synthetic):
    store = Store()
    record(store, synthetic.plain(), owner="ann")
    record(store, synthetic.plain(), owner="bob")
    assert [r.owner for r in store.runs(owner="ann")] == ["ann"]
    assert len(store.runs()) == 2


def _record_many(root: str, count: int) -> None:
    store = Store(root)
    for i in range(count):
        writer = store.record(Settings(), "p", f"{i}", environment={})
        writer.add([ev.Token(index=0, id=1, text="t")])
        writer.finish()
        store.runs()


def test_processes_share_a_store():
    root = Store().root
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_record_many, args=(str(root), 8)) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    assert [w.exitcode for w in workers] == [0, 0]
    found = Store(root).runs()
    assert len(found) == 16
    assert all(r.text == "t" and r.status == "done" for r in found)


def test_another_process_can_follow_a_live_run(synthetic):
    writer = Store().record(Settings(), "p", environment={})
    writer.run.begin()
    events = synthetic.plain()
    writer.add(events[:6])
    watcher = Store().runs(live=True)[0]
    assert watcher.status == "running"
    assert watcher.since(0)[0] == events[:6]
    writer.add(events[6:])
    assert watcher.events == events
    writer.finish()
    assert watcher.wait(1)
    assert watcher.status == "done"
    assert watcher.text == "word " * 10
    assert watcher.metrics["new_tokens"].value == 10
    assert watcher.path == writer.run.path


def test_replay_plays_in_time_and_ends_as_recorded(synthetic):
    run = record(Store(), synthetic.plain(30, step_s=0.02))
    played = replay(run.id, speed=2.0)
    assert played.status == "running"
    assert played.text == ""
    start, seen, cursor = time.monotonic(), [], 0
    while played.status == "running":
        new, cursor = played.since(cursor)
        seen += new
        time.sleep(0.005)
    took = time.monotonic() - start
    seen += played.since(cursor)[0]
    assert seen == run.events
    assert 0.3 < took < 3  # 0.709 s recorded, twice as fast
    assert played.metrics == run.metrics
    assert played.text == run.text


def test_replay_at_once_and_refused(synthetic):
    run = record(Store(), synthetic.plain())
    played = replay(run.path, speed=float("inf"))
    assert played.wait(1)
    assert played.status == "done"
    with pytest.raises(StoreError, match="above 0"):
        replay(run, speed=0)
    with pytest.raises(StoreError, match="still running"):
        replay(Store().record(Settings(), "p", environment={}).run)


def test_the_environment_names_no_person_and_no_path():
    import getpass

    from workbench.store.environment import collect

    found = json.dumps(collect())
    assert "torch" in found
    assert str(Path.home()) not in found or str(Path.home()) == "/"
    assert f'"{getpass.getuser()}"' not in found


def test_importing_the_store_imports_nothing_heavy():
    import subprocess
    import sys

    code = ("import sys, workbench.store; "
            "print([m for m in ('torch', 'polars', 'plotly', 'transformers') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True).stdout.strip() == "[]"
