"""One opened trace: the measures as methods, a summary in sentences, a picture of itself in a notebook."""

from __future__ import annotations

import html
import importlib
import io
import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from workbench.errors import TraceError
from workbench.traces import critical, fusion, measures, read

if TYPE_CHECKING:
    from workbench.store import Run

#: The module that draws a timeline in a notebook, by name: nothing here imports a view.
_NOTEBOOK_TIMELINE = "workbench.widgets.timeline"
Progress = Callable[[float], None] | None


class Trace:
    """Events of a trace file or a run as a frame, and what they say; every time is in microseconds.

    ``frame``: one row per event with ``ph, name, cat, ts, dur, pid, tid, correlation, external, stream,
    device, bytes`` (names as the file has them; null where it has none). ``lost_bytes``: the incomplete end
    of a file that was cut off. Measures are computed when they are asked for, each once."""

    def __init__(self, source: str, found: read.Columns) -> None:
        self.source = source
        self.frame = found.frame()
        self.names = found.names
        self.lost_bytes, self.skipped = found.lost_bytes, found.skipped
        self.metadata = _metadata(found.head)

    # -- measures -------------------------------------------------------------------------------

    def breakdown(self) -> pl.DataFrame:
        """Kernels by name: count, total, mean, least, most, standard deviation, share of all kernel time."""
        return measures.by_name(self.frame)

    def operators(self) -> pl.DataFrame:
        """Host operators by name, with the time that is their own."""
        return measures.operators(self.frame)

    def temporal(self) -> pl.DataFrame:
        """Per device: span, idle, compute, and other work that compute does not hide."""
        return measures.temporal(self.frame)

    def overlap(self) -> pl.DataFrame:
        """Per device: how much of its communication runs under compute."""
        return measures.overlap(self.frame)

    def idle(self, delay_us: float = measures.KERNEL_DELAY_US, begun: bool = False) -> pl.DataFrame:
        """Idle time of every stream by cause: host, kernel, other. ``begun``: by HTA's rule."""
        return measures.idle(self.frame, delay_us, begun)

    def launches(self) -> pl.DataFrame:
        """Every launch with its kernel: the call, the delay, the wait."""
        return measures.launches(self.frame)

    def queue(self) -> pl.DataFrame:
        """Launched and not yet begun kernels of every stream over time."""
        return measures.queue(self.frame)

    @cached_property
    def _tklqt(self) -> measures.Tklqt:
        return measures.tklqt(self.frame)

    def tklqt(self) -> measures.Tklqt:
        """Total kernel launch and queuing time, and which of host and device is the limit (SKIP)."""
        return self._tklqt

    @cached_property
    def _path(self) -> pl.DataFrame:
        return critical.path(self.frame)

    def critical_path(self) -> pl.DataFrame:
        """Its pieces in order; they sum to the span."""
        return self._path

    def fusion(self, top: int = 20) -> pl.DataFrame:
        """Sequences of kernels worth fusing; ``gain_us`` is estimated, an upper bound."""
        return fusion.candidates(self.frame, top=top)

    @cached_property
    def rank(self) -> int | None:
        """The rank that the file says it is of, None for a file without one."""
        info = self.metadata.get("distributedInfo")
        rank = info.get("rank") if isinstance(info, dict) else None
        return rank if isinstance(rank, int) else None

    # -- words and pictures ---------------------------------------------------------------------

    def summary(self) -> list[str]:
        """What the trace says, in sentences."""
        said = [self._size()]
        if self.lost_bytes:
            said.append(
                f"The file was cut off: its last {self.lost_bytes:,} bytes hold no whole event and "
                "were left out."
            )
        if self.skipped:
            said.append(f"{self.skipped:,} entries are no events with a time and were left out.")
        times = self.temporal()
        for row in times.rows(named=True):
            where = f"Device {row['device']}" if row["device"] is not None else "The processor"
            said.append(
                f"{where} computed for {100 * row['compute_share']:.1f} % and was idle for "
                f"{100 * row['idle_share']:.1f} % of {_time(row['span_us'])} from its first kernel "
                "to its last."
            )
        return (
            said
            + self._idle_words()
            + self._limit_words(bool(len(times)))
            + self._path_words()
            + self._fusion_words()
        )

    def _size(self) -> str:
        if not len(self.frame):
            return f"{self.source} has no event with a time."
        start = float(self.frame["ts"].min())  # type: ignore[arg-type]
        end = float((self.frame["ts"] + self.frame["dur"].fill_null(0.0)).max())  # type: ignore[arg-type]
        rank = f", rank {self.rank}" if self.rank is not None else ""
        return f"{self.source}{rank}: {len(self.frame):,} events over {_time(end - start)}."

    def _idle_words(self) -> list[str]:
        found = self.idle().group_by("cause").agg(pl.col("idle_us").sum()).sort("idle_us", descending=True)
        total = found["idle_us"].sum()
        if not total or not len(self.launches()):
            return []
        words = {
            "host": "the next launch came late (host)",
            "kernel": "the device's own pause between kernels",
            "other": "launched in time yet late (another stream, a copy, an event)",
        }
        parts = [f"{100 * r['idle_us'] / total:.0f} % {words[r['cause']]}" for r in found.rows(named=True)]
        return ["Streams idle between kernels: " + ", ".join(parts) + "."]

    def _limit_words(self, kernels: bool) -> list[str]:
        found = self.tklqt()
        if not found.kernels:
            return (
                [
                    "No launch leads to a kernel in this trace (work that the host runs itself has none), so "
                    "launching is not what it waits for."
                ]
                if len(self.frame)
                else []
            )
        return [
            f"The {found.bound} is the limit: {found.reason}. TKLQT is {_time(found.total_us)} over "
            f"{found.kernels:,} kernels."
        ]

    def _path_words(self) -> list[str]:
        kinds = critical.by_kind(self.critical_path())
        if not len(kinds):
            return []
        parts = [f"{r['kind']} {100 * r['share']:.0f} %" for r in kinds.head(4).rows(named=True)]
        return ["On the critical path: " + ", ".join(parts) + "."]

    def _fusion_words(self) -> list[str]:
        best = self.fusion(1)
        if not len(best) or best["gain_us"][0] <= 0:
            return []
        row = best.row(0, named=True)
        return [
            f"Fusing {row['kernels'][:120]} ({row['count']} times) would save at most "
            f"{_time(row['gain_us'])} "
            "(estimated: gaps and launches; memory traffic not counted)."
        ]

    def timeline(self) -> Any:
        """A widget that pans and zooms over all events, never drawing more than 20,000 marks."""
        return importlib.import_module(_NOTEBOOK_TIMELINE).timeline(self)

    def figures(self) -> list[dict[str, Any]]:
        """Plotly dicts: kernels by name, idle by cause, queue over time, the critical path."""
        from workbench.charts import traces as charts

        shown = [charts.by_name(self.breakdown()), charts.path(critical.by_kind(self.critical_path()))]
        if len(self.launches()):
            shown += [charts.idle(self.idle()), charts.queue(self.queue())]
        return shown

    def tables(self, top: int = 12) -> dict[str, pl.DataFrame]:
        """The measures that have rows, ``top`` of each, by title."""
        every = {
            "Kernels": self.breakdown().head(top),
            "Devices": self.temporal(),
            "Idle by cause": self.idle(),
            "Overlap of communication": self.overlap(),
            "Operators of the host": self.operators().head(top),
            "Critical path": critical.by_kind(self.critical_path()),
            "Worth fusing (gain estimated)": self.fusion(top),
        }
        return {title: frame for title, frame in every.items() if len(frame)}

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{html.escape(s)}</p>" for s in self.summary())
        return said + "".join(
            f"<h4>{html.escape(t)}</h4>{f._repr_html_()}" for t, f in self.tables().items()
        )

    def __repr__(self) -> str:
        return "\n".join(self.summary())


def open_trace(
    source: str | Path | Run, progress: Progress = None, cancelled: Callable[[], bool] = lambda: False
) -> Trace:
    """A trace of a file, a run, or a run's id. Raises TraceError, StoreError, Cancelled."""
    from workbench.store import Run

    if isinstance(source, Run):
        return of_run(source)
    path = Path(source)
    if path.is_file():
        return Trace(path.name, read.read(path, progress, cancelled))
    from workbench.store import Store

    known = {run.id: run for run in Store().runs()}
    if str(source) in known:
        return of_run(known[str(source)])
    raise TraceError(
        f"there is no file and no run {str(source)!r}; give a .json or .json.gz trace, or a run's id"
    )


def of_run(run: Run) -> Trace:
    """What the run's captures saw, one behind the other: the time between captures, in which nobody looked,
    is cut out. Goes through the same reader as any file."""
    from workbench.analysis.trace import chrome_trace

    rows = _captured(chrome_trace(run.events, run.label)["traceEvents"])
    if not rows:
        raise TraceError(f"run {run.label or run.id} kept no kernels; run it with telemetry.preset=kernels")
    text = json.dumps(rows).encode()
    return Trace(f"run {run.label or run.id}", read.read_stream(io.BytesIO(text), len(text), run.id))


def _captured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Kernels by window, each window moved to the end of the one before it."""
    windows: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("ph") == "X" and "window" in row.get("args", {}):
            windows.setdefault(row["args"]["window"], []).append(row)
    found, at = [], 0.0
    for part in windows.values():
        start, end = min(r["ts"] for r in part), max(r["ts"] + r["dur"] for r in part)
        found += [{**r, "ts": r["ts"] - start + at} for r in part]
        at += end - start
    return found


def _metadata(head: bytes) -> dict[str, Any]:
    """What stands around the events, as far as it can be read."""
    text = re.sub(rb",\s*,", b",", re.sub(rb"\{\s*,", b"{", head.strip())).rstrip(b",")
    for candidate in (text, text + b"}"):
        try:
            found = json.loads(candidate)
        except ValueError:
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _time(us: float) -> str:
    for unit, scale in (("s", 1e6), ("ms", 1e3)):
        if us >= scale:
            return f"{us / scale:.3g} {unit}"
    return f"{us:.3g} us"
