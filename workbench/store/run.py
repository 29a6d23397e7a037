"""A run, live, recorded or replayed: one interface for every view."""

from __future__ import annotations

import datetime
import html
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import events as ev
from workbench.settings import Settings
from workbench.store.record import ENDED, Record
from workbench.store.sources import Source

if TYPE_CHECKING:
    import polars as pl


class Run:
    """Settings requested and effective, environment, events, text and metrics of one run.

    ``created_unix_s``: when it began to run (until then, when it was queued). Make one with
    ``session.run`` or ``store.open``; read it from any thread."""

    def __init__(self, record: Record, source: Source, path: Path | None) -> None:
        self.record, self.source, self.path = record, source, path
        self._settings: Settings | None = None
        self._summary: tuple[int, dict[str, ev.Metric]] = (-1, {})
        self._texts: tuple[int, dict[int, list[str]]] = (0, {})

    # -- identity ---------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def label(self) -> str:
        return self.record.label

    @property
    def prompt(self) -> str:
        """The first sequence's prompt."""
        return self.record.prompts[0] if self.record.prompts else ""

    @property
    def prompts(self) -> list[str]:
        return self.record.prompts

    @property
    def owner(self) -> str:
        return self.record.owner

    @property
    def created_unix_s(self) -> float:
        return self.record.created_unix_s

    @property
    def created(self) -> datetime.datetime:
        """In local time, with its zone."""
        return datetime.datetime.fromtimestamp(self.record.created_unix_s).astimezone()

    @property
    def status(self) -> str:
        """``queued running done cancelled failed interrupted``."""
        final = self.source.final_record() if self.record.status not in ENDED else None
        if final is not None:
            self.record, self.path = final, self.path and self.path.with_name(final.id)
        status = self.record.status
        return "running" if status in ENDED and not self.source.ended() else status

    @property
    def error(self) -> str:
        """One sentence when the run failed, empty otherwise."""
        return self.record.error

    # -- what was asked, what ran -----------------------------------------------------------

    @property
    def requested(self) -> Settings:
        """Raises SettingsError when this version no longer has one of its techniques."""
        if self._settings is None:
            self._settings = Settings.from_dict(self.record.requested)
        return self._settings

    @property
    def settings_dict(self) -> dict[str, Any]:
        """The requested settings as they were written, readable by any version."""
        return self.record.requested

    @property
    def effective(self) -> dict[str, dict[str, Any]]:
        """path -> ``requested effective honoured reason``."""
        if self.record.effective and self.source.ended():
            return self.record.effective
        from workbench.analysis.frames import effective

        return effective(self.events)

    @property
    def advice(self) -> dict[str, Any]:
        """What this run was made to try: ``of label changes expects before``; empty for others."""
        return self.record.advice

    @property
    def environment(self) -> dict[str, Any]:
        return self.record.environment

    # -- what happened ----------------------------------------------------------------------

    @property
    def events(self) -> list[ev.Event]:
        return self.source.events()

    def since(self, cursor: int = 0) -> tuple[list[ev.Event], int]:
        """Events after ``cursor``, and the next cursor."""
        return self.source.since(cursor)

    @property
    def metrics(self) -> dict[str, ev.Metric]:
        """Computed from what is there so far; final once the run ended."""
        if self.record.metrics and self.source.ended():
            return self.record.metrics
        from workbench.analysis.metrics import summarize

        events = self.events
        if len(events) != self._summary[0]:
            self._summary = len(events), summarize(events)
        return self._summary[1]

    @property
    def texts(self) -> list[str]:
        """The new text of every sequence."""
        parts = self._collect()
        return ["".join(parts[s]) for s in sorted(parts)] or [""]

    @property
    def text(self) -> str:
        """The first sequence's new text."""
        return self.texts[0]

    def _collect(self) -> dict[int, list[str]]:
        cursor, known = self._texts
        new, cursor = self.since(cursor)
        parts = {s: list(p) for s, p in known.items()}
        for e in new:
            if isinstance(e, ev.Token):
                parts.setdefault(e.sequence, []).append(e.text)
        # Joined once per call, so that a thousand reads of a long text stay cheap.
        self._texts = cursor, {s: ["".join(p)] for s, p in parts.items()}
        return self._texts[1]

    def wait(self, timeout: float | None = None) -> bool:
        """Until it ended or ``timeout`` seconds passed; True when it ended."""
        return self.source.wait(timeout)

    def frame(self) -> pl.DataFrame:
        """All events as one wide polars table."""
        from workbench.analysis.frames import wide

        return wide(self.events)

    def begin(self) -> None:
        """The engine takes it up now: the run's clock starts."""
        self.record.status, self.record.created_unix_s = "running", time.time()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary: everything but the events."""
        return {
            "id": self.id, "label": self.label, "status": self.status, "error": self.error,
            "created": self.created.isoformat(timespec="seconds"), "prompt": self.prompt,
            "text": self.text, "requested": self.record.requested, "effective": self.effective,
            "metrics": {k: metric_dict(m) for k, m in self.metrics.items()},
            "environment": self.environment, "path": str(self.path) if self.path else None}

    def __repr__(self) -> str:
        from workbench.analysis.metrics import format_metric

        speed = format_metric(self.metrics.get("tok_per_s"))
        return f"<run {self.id} {self.label!r} {self.status}, {speed}>"

    def _repr_html_(self) -> str:
        return Runs([self])._repr_html_()


def metric_dict(m: ev.Metric) -> dict[str, Any]:
    """``value unit quality`` and, where they say something, ``reason`` and ``se``."""
    data: dict[str, Any] = {"value": m.value, "unit": m.unit, "quality": m.quality}
    if m.reason:
        data["reason"] = m.reason
    if m.se is not None:
        data["se"] = m.se
    return data


_COLUMNS = ("ttft_s", "tok_per_s", "peak_ram_bytes", "mean_accepted_length", "perplexity")


class Runs(list[Run]):
    """Runs as a list that prints as a table, newest first as the store gives them."""

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and cells as text."""
        from workbench.analysis.metrics import SPECS, format_metric

        header = ["id", "label", "status", *(SPECS[c].label for c in _COLUMNS)]
        return header, [[r.id, r.label, r.status,
                         *(format_metric(r.metrics.get(c)) for c in _COLUMNS)] for r in self]

    def frame(self) -> pl.DataFrame:
        """One row per run, metrics as numbers."""
        import polars as pl

        return pl.DataFrame([{
            "id": r.id, "label": r.label, "status": r.status, "created": r.created,
            **{k: m.value for k, m in r.metrics.items()}} for r in self])

    def __repr__(self) -> str:
        if not self:
            return "no runs yet"
        header, rows = self.rows()
        widths = [max(len(c) for c in column) for column in zip(header, *rows, strict=True)]
        return "\n".join(_line(cells, widths) for cells in [header, *rows])

    def _repr_html_(self) -> str:
        header, rows = self.rows()
        body = "".join(f"<tr>{_cells(cells, 'td')}</tr>" for cells in rows)
        return (f"<table><thead><tr>{_cells(header, 'th')}</tr></thead>"
                f"<tbody>{body}</tbody></table>")


def _line(cells: Iterable[str], widths: list[int]) -> str:
    return "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()


def _cells(cells: Iterable[str], element: str) -> str:
    return "".join(f"<{element}>{html.escape(c)}</{element}>" for c in cells)
