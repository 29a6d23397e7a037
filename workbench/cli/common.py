"""What the commands share: settings options made from the catalogue, tables, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.errors import SettingsError, StoreError, one_of
from workbench.settings import Settings
from workbench.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from workbench.session import Session
    from workbench.store import Run

#: Table columns: metric, heading, larger is better.
COLUMNS = [
    ("ttft_s", "TTFT", False), ("tpot_s", "TPOT", False), ("itl_p50_s", "ITL p50", False),
    ("tok_per_s", "tok/s", True), ("peak_gpu_bytes", "GPU", False),
    ("peak_ram_bytes", "RAM", False), ("peak_disk_bytes", "disk", False),
    ("j_per_token", "J/token", False), ("perplexity", "perplexity", False),
    ("kl_mean", "KL", False), ("top1", "top-1", True),
    ("mean_accepted_length", "accepted length", True),
]


def settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--set``, ``--settings``, ``--model`` and one option per setting of the catalogue."""
    from workbench.settings.tree import FAMILIES, SECTIONS

    options = [
        click.option("--model", "-m", help="bundled (default), org/name, a folder, a config.json"),
        click.option("--set", "changes", multiple=True, metavar="NAME=VALUE",
                     help="change a setting; may be repeated"),
        click.option("--settings", "file", type=click.Path(path_type=Path),
                     help="start from a YAML or JSON file"),
    ]
    for name in FAMILIES:
        options.append(click.option(f"--{name}", metavar="NAME", help=f"{name} technique"))
    for section in SECTIONS.values():
        for knob in section.controls():
            if section.__name__ != "Model" and section.__name__ != "Quality":
                options.append(click.option(f"--{knob.name.replace('_', '-')}", knob.name,
                                            metavar="VALUE", help=knob.help))
    options.append(click.option("--quality", metavar="LEVEL", help="off, quick or full"))
    options.append(click.option("--seed", metavar="N", help="same seed, same text"))
    for option in reversed(options):
        function = option(function)
    return function


def settings_from(options: dict[str, Any]) -> Settings:
    """The settings that the options of :func:`settings_options` describe; consumes them."""
    file, model = options.pop("file", None), options.pop("model", None)
    pairs = dict(split_pair(p) for p in options.pop("changes", ()))
    given = {k: options.pop(k) for k in list(options) if k in _option_names()}
    base = read_settings(file) if file else Settings()
    changes: dict[str, Any] = {"model.source": model} if model else {}
    changes |= {k: v for k, v in given.items() if v is not None}
    return base.with_({**changes, **pairs})


def _option_names() -> set[str]:
    from workbench.settings.tree import FAMILIES, SECTIONS

    knobs = {k.name for n, s in SECTIONS.items() if n not in ("model", "quality")
             for k in s.controls()}
    return set(FAMILIES) | knobs | {"quality", "seed"}


def split_pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise SettingsError(f"--set {text!r} is not NAME=VALUE, like --set weights=int4")
    return name.strip(), value.strip()


def read_settings(path: Path) -> Settings:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    return Settings.from_json(text) if path.suffix == ".json" else Settings.from_yaml(text)


def open_session(settings: Settings, **options: Any) -> Session:
    from workbench.session import open as open_model

    session = open_model(settings.model.source, warm=False, **{
        "model.weights": settings.model.weights, "model.allow_pickle": settings.model.allow_pickle,
        "model.trust_remote_code": settings.model.trust_remote_code, **options})
    session.set(settings)
    return session


def find_run(name: str) -> Run:
    """A run by id, by the beginning of its id, by path, or ``last``."""
    from workbench.store import Store

    store = Store()
    if Path(name).is_dir():
        return store.open(Path(name))
    runs = store.runs()
    if name == "last" and runs:
        return max(runs, key=lambda r: r.id)
    matches = [r for r in runs if r.id == name] or [r for r in runs if r.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise StoreError(f"{name!r} begins several runs: {', '.join(r.id for r in matches[:5])}")
    recent = [r.id for r in sorted(runs, key=lambda r: r.id)[-5:]]
    raise StoreError(one_of("run", name, [*recent, "last"]) if runs
                     else "there are no runs yet; make one with `workbench run --prompt TEXT`")


def print_json(data: Any) -> None:
    """One JSON document on stdout; not-a-number becomes null."""
    click.echo(json.dumps(clean(data), indent=2, default=str))


def clean(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {str(k): clean(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [clean(v) for v in data]
    return data


def console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def show_metric(name: str, value: float | None) -> str:
    """A metric with its unit, ``n/a`` when missing."""
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name.endswith("_s") and not name.endswith("per_s"):
        return format_seconds(value)
    if name in ("top1", "acceptance_rate", "capture_overhead"):
        return "n/a" if value is None else f"{100 * value:.1f} %"
    if name == "kl_mean" and value is not None:
        return f"{value:.2g}"
    return format_number(value, {"j_per_token": "J"}.get(name, ""))


def run_row(run: Run) -> dict[str, Any]:
    """What ``--json`` prints of a run; of a batch also every prompt and text."""
    every = {"prompts": list(run.prompts), "texts": run.texts} if len(run.prompts) > 1 else {}
    return {"id": run.id, "label": run.label, "status": run.status, "error": run.error,
            "prompt": run.prompt, "text": run.text, "requested": run.requested.to_dict(),
            "effective": run.effective, "metrics": metrics_dict(run), "path": str(run.path), **every}


def metrics_dict(run: Run) -> dict[str, Any]:
    return {name: {"value": m.value, "unit": m.unit, "quality": m.quality, "reason": m.reason, "se": m.se,
                   "badges": m.badges} for name, m in run.metrics.items()}


def metric_value(run: Run, name: str) -> float | None:
    found = run.metrics.get(name)
    return None if found is None else found.value


def reasons(runs: list[Run]) -> list[str]:
    """Why a metric is estimated, missing in all runs, or to be taken with care; one line each."""
    lines = []
    for name, heading, _ in COLUMNS:
        found = [m for r in runs if (m := r.metrics.get(name)) is not None]
        missing = all(m.value is None for m in found)
        for m in found:
            if m.reason and (missing or (m.value is not None and m.quality != "measured")):
                lines.append(f"{heading}: {m.reason}")
                break
        badges = dict.fromkeys(m.badges for m in found if m.badges)
        lines += [f"{heading}: take care, {b}" for b in badges]
    return lines


def text_table(title: str, headings: list[str], rows: list[list[str]],
               numbers: bool = True) -> Table:
    """A rich table; with ``numbers`` every column but the first is set flush right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if numbers and index else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])  # Text: brackets in a label are not markup
    return table
