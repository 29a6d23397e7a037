"""A run out as one trace file and back: every event, record and byte of text is there again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import pytest

import workbench as wb
from workbench.errors import StoreError
from workbench.store import Store, export_trace, import_trace


@pytest.mark.parametrize("name", ["t.json", "t.json.gz", "t"])
def test_nothing_is_lost(tmp_path: Path, name: str) -> None:
    for run in wb.recorded():
        path = export_trace(run, tmp_path / name)
        back = import_trace(path, Store(tmp_path / "store"))
        assert back.events == run.events
        assert back.texts == run.texts
        mine, theirs = msgspec.to_builtins(back.record), msgspec.to_builtins(run.record)
        different = {k for k in mine if mine[k] != theirs[k]}
        assert different <= {"id"}
        again = import_trace(path, Store(tmp_path / "store"))
        assert again.id != back.id


def test_the_file_is_an_ordinary_trace_with_the_tracks(tmp_path: Path) -> None:
    run = next(r for r in wb.recorded() if "draft" in r.label)
    path = export_trace(run, tmp_path / "t.json.gz")
    data = json.loads(gzip.decompress(path.read_bytes()))
    names = {e["args"]["name"] for e in data["traceEvents"] if e["name"] == "thread_name"}
    assert {"phases", "tokens", "drafts"} <= names
    counters = {e["name"] for e in data["traceEvents"] if e["ph"] == "C"}
    assert {"drafted tokens", "tokens per second"} <= counters
    assert any(c.startswith("memory ram") for c in counters)
    assert len(wb.trace(path).frame) >= len([e for e in data["traceEvents"] if "ts" in e])


def test_other_files_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bad = {"other.json": b'{"traceEvents": []}', "cut.json.gz": gzip.compress(b"{" * 99)[:-9],
           "text.json": b"hello", "new.json": b'{"workbench": {"version": 99, "record": {}, "events": []}}'}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(StoreError) as error:
            import_trace(tmp_path / name, store)
        assert "\n" not in str(error.value)
    with pytest.raises(StoreError, match="cannot read"):
        import_trace(tmp_path / "missing.json", store)
    assert not list((tmp_path / "store").glob("*")) if (tmp_path / "store").exists() else True


def test_the_command_writes_and_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from workbench.cli.runs import command

    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    path = export_trace(wb.recorded()[0], tmp_path / "t.json.gz")
    done = CliRunner().invoke(command, ["--import", str(path), "--json"])
    assert done.exit_code == 0, done.output
    [added] = Store().runs()
    done = CliRunner().invoke(command, ["--export", added.id, str(tmp_path / "u.zip")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "u.zip").is_file()
