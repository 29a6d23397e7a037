"""What a panel is: one question, one pure function from runs to content, drawn by every view.

A panel is one file of this folder with a ``PANEL``. It knows runs, analysis and charts, and no
view; notebook, dashboard, report and command line draw the same content, each in its own way.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.store import Run

_log = logging.getLogger(__name__)
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """``rows`` have one cell per column; numbers are formatted by the view, None is a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: {len(row)} cells, {len(self.columns)} columns")


@dataclass(frozen=True)
class Action:
    """One click to try: the session runs once more with ``changes`` (paths of settings -> values).

    ``expects``: metric -> the value that the advice promises, compared with the run afterwards."""

    label: str
    changes: Mapping[str, Any]
    help: str = ""
    expects: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """What a panel says now. ``sentences`` first, then figures (Plotly dicts), tables, actions.

    ``picks``: what a click into a figure tries. A figure whose ``layout.meta.picks`` is true has their places
    in the sequence as ``customdata``, in the shape of its marks (None: nothing to try).
    ``empty``: why there is nothing to draw and what to do about it; then all else is left out."""

    sentences: Sequence[str] = ()
    figures: Sequence[dict[str, Any]] = ()
    tables: Sequence[Table] = ()
    actions: Sequence[Action] = ()
    empty: str = ""
    picks: Sequence[Action] = ()

    def picked(self, index: Any) -> Action | None:
        """The action behind a mark's ``customdata``."""
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(self.picks):
            return None
        return self.picks[index]


@dataclass(frozen=True)
class Panel:
    """``build(run, baseline) -> Content`` is pure: it reads runs and changes nothing.

    ``question``: what a person asks who opens it. ``order``: place among the panels, small first.
    ``live_s``: seconds between two drawings while the run goes on (a slow panel is drawn less often)."""

    key: str
    title: str
    question: str
    build: Callable[..., Content] = field(compare=False)
    order: int = 100
    live_s: float = 2.0

    def pause(self, took_s: float) -> float:
        """Seconds until it is drawn again while the run goes on, after a drawing that took so long: at most a
        tenth of the time, a third where that would be seldom."""
        return max(self.live_s, min(10 * took_s, max(2.0, 3 * took_s)))

    def content(self, run: Run, baseline: Run | None = None) -> Content:
        """Never raises: a panel that cannot be drawn must not take the view with it."""
        if baseline is not None and baseline.id == run.id:
            baseline = None
        try:
            return self.build(run, baseline)
        except WorkbenchError as error:
            return Content(empty=str(error))
        except Exception as error:
            _log.exception("panel %s could not be drawn for run %s", self.key, run.id)
            return Content(empty=f"This panel could not be drawn ({type(error).__name__}: {error}). "
                                 "The run itself is unharmed.")


def panels() -> list[Panel]:
    """Every panel of this folder, in order. A file that cannot be imported is left out and logged."""
    import workbench.panels as package

    found = []
    for info in pkgutil.iter_modules(package.__path__):
        if info.name == "base":
            continue
        try:
            found.append(importlib.import_module(f"workbench.panels.{info.name}").PANEL)
        except Exception:
            _log.exception("panel %s could not be imported", info.name)
    return sorted(found, key=lambda p: (p.order, p.key))


def panel(key: str) -> Panel:
    """The panel of this key; raises :class:`WorkbenchError` that names the keys there are."""
    every = {p.key: p for p in panels()}
    if key not in every:
        raise WorkbenchError(f"there is no panel {key!r}; choose one of {', '.join(every)}")
    return every[key]


def say(cell: Cell) -> str:
    """A cell as text: four significant digits, a dash for what is not known."""
    if cell is None:
        return "–"
    if isinstance(cell, bool) or not isinstance(cell, float):
        return str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 1e4 else f"{cell:.4g}"


def plain(content: Content) -> dict[str, Any]:
    """The content as JSON-ready values, cells as text: what a browser draws.

    A column whose cells are all numbers or None is numeric (``numeric``: one flag per column)."""
    return {
        "sentences": list(content.sentences), "figures": list(content.figures),
        "tables": [{"title": t.title, "columns": list(t.columns), "numeric": _numeric(t),
                    "rows": [[say(c) for c in row] for row in t.rows]} for t in content.tables],
        "actions": [{"label": a.label, "help": a.help} for a in content.actions],
        "empty": content.empty}


def _numeric(table: Table) -> list[bool]:
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.columns)
    return [bool(c) and all(x is None or isinstance(x, int | float) for x in c) for c in columns]
