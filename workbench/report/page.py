"""The report's file: content into the template, scripts and styles inlined, everything else forbidden.

The page's content security policy forbids all requests; the only scripts it allows are the two
whose hashes it lists (Plotly and the few lines that draw). Text of prompts and models reaches the
page through Jinja's escaping and through JSON with ``<`` written as an escape, so it stays text.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.report.content import content

if TYPE_CHECKING:
    from workbench.store import Run

#: A larger figure of a panel is left out of the file.
_FIGURE_CHARACTERS = 1_500_000


def write(runs: Sequence[Run], path: str | Path, title: str | None = None,
          baseline: Run | None = None) -> Path:
    """Write the report; the first run (or ``baseline``) is what the others are compared with.

    Raises WorkbenchError without runs, StoreError when the file cannot be written."""
    from workbench.store.files import refused, write_atomic

    path = Path(path).expanduser()
    path = path / "report.html" if path.is_dir() else path
    text = html(runs, title=title, baseline=baseline)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode("utf-8", "replace"))
    except OSError as error:
        raise refused(error, "writing the report", path) from None
    return path


def html(runs: Sequence[Run], title: str | None = None, baseline: Run | None = None) -> str:
    """The report as text. Raises WorkbenchError when there is nothing to report."""
    if not runs:
        raise WorkbenchError("a report needs at least one run; make one with `workbench run`")
    found = content(runs, title, baseline)
    figures = found.pop("figures")
    for _, answers in found["answers"]:
        for answer in answers:
            drawn = zip(answer["names"], answer.pop("figures"), strict=True)
            figures |= {name: figure for name, figure in drawn if _fits(figure)}
            answer["names"] = [name for name in answer["names"] if name in figures]
    plotly, draw = _plotly(), _asset("draw.js")
    return _template().render(
        **found, figures=[(k, _json(v)) for k, v in figures.items()], style=_asset("style.css"),
        plotly=plotly, draw=draw, policy=_policy([plotly, draw]))


def _fits(figure: dict[str, Any]) -> bool:
    """Whether a figure is small enough to travel in a file (a long trace's timeline is not)."""
    return len(_json(figure)) <= _FIGURE_CHARACTERS


def _json(value: Any) -> str:
    """JSON that cannot end its script element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: list[str]) -> str:
    hashes = " ".join(f"'sha256-{_digest(s)}'" for s in scripts)
    return (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # The browser hashes the script after making its line ends \n.
    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")


@functools.cache
def _asset(name: str) -> str:
    return (resources.files("workbench.report") / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("report.html.j2"))
