"""Traces: a written one with known answers, files that are damaged, and what torch.profiler makes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.errors import Cancelled, StoreError, TraceError
from workbench.traces import critical, measures, read
from workbench.traces.lod import Pyramid, busy
from workbench.traces.transition import transition


def event(cat: str, name: str, ts: float, dur: float, tid: int = 1, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid, "args": args}


def launched(
    number: int, call: float, begin: float, dur: float, name: str = "gemm", stream: int = 7
) -> list[dict[str, Any]]:
    return [
        event("cuda_runtime", "cudaLaunchKernel", call, 2.0, correlation=number),
        event("kernel", name, begin, dur, tid=stream, correlation=number, stream=stream, device=0),
    ]


#: Two kernels launched ahead, one launched late, a gap of a microsecond and one of 44.
ROWS = [
    event("cpu_op", "aten::linear", 0, 20),
    *launched(1, 4, 10, 30),
    *launched(2, 8, 41, 20),
    event("cpu_op", "aten::add", 95, 8),
    *launched(3, 100, 105, 10, "add"),
    event("cuda_runtime", "cudaDeviceSynchronize", 103, 14),
]


def write(path: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    path.write_text(
        json.dumps({"schemaVersion": 1, "distributedInfo": {"rank": 3}, "traceEvents": rows, **more})
    )
    return path


def test_measures_of_a_trace_with_known_answers(tmp_path: Path) -> None:
    t = wb.trace(write(tmp_path / "t.json", ROWS, traceName="x"))
    times = t.temporal().row(0, named=True)
    assert (times["span_us"], times["idle_us"], times["compute_us"]) == (105, 45, 60)
    assert dict(t.idle().select("cause", "idle_us").rows()) == {"kernel": 1.0, "host": 44.0}
    assert t.launches()["delay_us"].to_list() == [4.0, 31.0, 3.0]
    assert t.tklqt().total_us == 6 + 33 + 5
    assert t.tklqt().bound == "host"  # one of three was queued
    assert t.queue()["length"].to_list() == [1, 2, 1, 0, 1, 0]
    assert t.breakdown()["name"].to_list() == ["gemm", "add"]
    assert t.rank == 3
    assert t.metadata["traceName"] == "x"
    assert "<p>" in t._repr_html_()


def test_critical_path_goes_through_what_was_waited_for(tmp_path: Path) -> None:
    t = wb.trace(write(tmp_path / "t.json", ROWS))
    path = t.critical_path()
    assert path["dur_us"].sum() == pytest.approx(117.0)  # from the first operator to the end of the wait
    assert path["name"].to_list()[-2:] == ["add", "cudaDeviceSynchronize"]
    ends = (path["ts"] + path["dur_us"]).to_list()[:-1]
    assert ends == pytest.approx(path["ts"].to_list()[1:])


def test_a_queue_makes_the_device_the_limit(tmp_path: Path) -> None:
    rows = [r for n in range(20) for r in launched(n, 3.0 * n, 5 + 30.0 * n, 30)]
    t = wb.trace(write(tmp_path / "t.json", rows))
    assert t.tklqt().bound == "device"
    kinds = dict(critical.by_kind(t.critical_path()).select("kind", "total_us").rows())
    assert kinds["kernel"] == 600.0


@pytest.mark.parametrize("cut", [1, 17, 120, 333])
def test_a_file_that_ends_in_the_middle_keeps_its_whole_events(tmp_path: Path, cut: int) -> None:
    rows = [r for n in range(300) for r in launched(n, 10.0 * n, 10.0 * n + 4, 3, 'a "}, {" name')]
    text = json.dumps({"traceEvents": rows})
    path = tmp_path / "cut.json"
    path.write_text(text[:-cut])
    t = wb.trace(path)
    whole = text[:-cut].count('"ph"')
    assert len(t.frame) in (whole, whole - 1)
    assert t.lost_bytes < 400
    packed = tmp_path / "cut.json.gz"
    packed.write_bytes(gzip.compress(text.encode())[:-cut])
    assert wb.trace(packed).frame["ph"].len() <= len(rows)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=12), st.floats(0, 1e6), st.floats(0, 1e3)), max_size=40),
    st.integers(40, 4000),
)
def test_any_block_size_reads_the_same(rows: list[tuple[str, float, float]], block: int) -> None:
    import io

    text = json.dumps([event("cpu_op", n, t, d) for n, t, d in rows]).encode()
    before = read.BLOCK
    read.BLOCK = block
    try:
        found = read.read_stream(io.BytesIO(text), len(text), "t").frame()
    finally:
        read.BLOCK = before
    assert found["name"].cast(pl.String).to_list() == [n for n, _, _ in rows]
    assert found["ts"].to_list() == [t for _, t, _ in rows]


def test_odd_entries_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        {"ph": "X", "name": "no time"},
        {"ph": "Z", "ts": "12.5", "name": 7},
        "text",
        {"ph": "X", "ts": 1, "dur": 2, "args": ["a list"], "name": "kept"},
    ]
    t = wb.trace(write(tmp_path / "t.json", rows))
    assert "kept" in t.frame["name"].cast(pl.String).to_list()
    assert t.skipped >= 2


@pytest.mark.parametrize("text", ["", "hello", "{}", '{"traceEvents": 3}', "\x00\x01"])
def test_what_is_no_trace_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(TraceError) as error:
        wb.trace(path)
    assert "\n" not in str(error.value)
    with pytest.raises((TraceError, StoreError)):
        wb.trace(str(tmp_path / "missing.json"))


def test_reading_tells_progress_and_can_be_cancelled(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", ROWS)
    told: list[float] = []
    wb.trace(path, progress=told.append)
    assert told[-1] == 1.0
    with pytest.raises(Cancelled):
        wb.trace(path, cancelled=lambda: True)


def test_a_trace_of_the_torch_profiler(tmp_path: Path) -> None:
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        torch.nn.Linear(8, 8)(torch.ones(2, 8))
    found.export_chrome_trace(str(tmp_path / "torch.json"))
    t = wb.trace(tmp_path / "torch.json")
    assert "aten::linear" in t.operators()["name"].cast(pl.String).to_list()
    assert not t.tklqt().kernels
    assert t.summary()


def test_runs_are_read_through_the_same_reader() -> None:
    run = wb.recorded()[0]
    t = wb.trace(run)
    assert len(t.breakdown())
    assert 0 <= t.temporal()["idle_share"][0] < 1


def test_fusing_names_what_repeats_and_counts_only_gaps_of_a_device_that_is_the_limit(
    tmp_path: Path,
) -> None:
    rows = [
        r
        for n in range(0, 40, 2)
        for r in launched(n, n, 100 + 50.0 * n, 45, "a") + launched(n + 1, n + 1, 150 + 50.0 * n, 45, "b")
    ]
    found = wb.trace(write(tmp_path / "t.json", rows)).fusion()
    best = found.row(0, named=True)
    assert set(best["kernels"].split(" + ")) == {"a", "b"}
    pair = found.filter(pl.col("length") == 2).row(0, named=True) if (found["length"] == 2).any() else best
    assert pair["gain_us"] == pytest.approx(5.0 * pair["count"] * (pair["length"] - 1))


def test_transition_finds_the_planted_turn() -> None:
    def planted(batch: int) -> measures.Tklqt:
        wait = 8.0 if batch < 8 else 8.0 * batch / 2
        return measures.Tklqt(100, 100 * wait, 100.0 * batch, 8.0, 0.0, "", "")

    assert transition((b, planted(b)) for b in (1, 2, 4, 8, 16)).batch == 8
    assert transition((b, planted(b)) for b in (1, 2, 4)).batch is None
    with pytest.raises(ValueError, match="two batch sizes"):
        transition([(1, planted(1))])


def test_pyramid_loses_no_event_and_keeps_to_its_bound() -> None:
    rows = pl.DataFrame(
        {
            "ph": "X",
            "pid": "1",
            "tid": [str(i % 3) for i in range(30_000)],
            "name": [f"k{i % 7}" for i in range(30_000)],
            "ts": [float(i) for i in range(30_000)],
            "dur": [0.4] * 30_000,
        }
    )
    p = Pyramid(rows)
    seen = p.window(p.start, p.end, 1000, max_marks=2000)
    assert len(seen) <= 2000
    assert seen["count"].sum() == 30_000
    assert busy(seen) >= 0.4 * 30_000 - 1e-6
    close = p.window(100.0, 110.0, 1000)
    assert close["count"].to_list() == [1] * len(close)
    with pytest.raises(ValueError, match="window"):
        p.window(5, 5, 100)


def test_command_prints_what_the_object_says(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from workbench.cli.trace import command

    path = write(tmp_path / "t.json", ROWS)
    done = CliRunner().invoke(command, [str(path), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert said["tklqt"]["total_us"] == 44
    assert said["tables"]["Idle by cause"]
    assert CliRunner().invoke(command, [str(path)]).output.count("gemm")
