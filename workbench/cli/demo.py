"""``workbench demo``: the main job of ``make run``.

On the bundled model: a baseline and two candidates (int4 weights; int4 weights + draft model) over
bundled prompts of several kinds, interleaved, through the same session as every view. Ends with the
comparison table, the run bundles and a self-contained report.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import (
    COLUMNS,
    console,
    metric_value,
    metrics_dict,
    open_session,
    print_json,
    reasons,
    show_metric,
    text_table,
)
from workbench.cli.run import raise_for
from workbench.errors import SettingsError
from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.session import Session
    from workbench.store import Run

CANDIDATES: list[tuple[str, dict[str, Any]]] = [
    ("baseline", {}),
    ("int4", {"weights": "int4"}),
    ("int4 + draft", {"weights": "int4", "decoding": "draft_model"}),
]
KINDS = ("prose", "code", "math", "edit")


@click.command("demo")
@click.option("--tokens", default=96, show_default=True, help="new tokens per prompt")
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("runs/report.html"),
              show_default=True, help="where the report goes")
@click.option("--quality", default="quick", show_default=True, help="off, quick or full")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(tokens: int, output: Path, quality: str, as_json: bool) -> None:
    """Baseline against int4 and int4 + draft model, with a table and a report."""
    base = Settings().with_({"limits.max_new_tokens": tokens})
    base.with_({"quality.level": quality})  # refuse a bad level before anything loads
    with open_session(base) as session:
        groups = measure(session, tokens, quality)
        path = write_report(groups, output)
    if as_json:
        print_json({"report": str(path), "candidates": {
            name: {"metrics": averages(runs), "runs": [{"id": r.id, "path": str(r.path),
                   "metrics": metrics_dict(r)} for r in runs]} for name, runs in groups.items()}})
        return
    show(groups, path)


def measure(session: Session, tokens: int, quality: str) -> dict[str, list[Run]]:
    """Every prompt with every candidate in turn; quality once per candidate, on its first run."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    prompts = demo_prompts()
    groups: dict[str, list[Run]] = {name: [] for name, _ in CANDIDATES}
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                   console=console(stderr=True))
    with bar:
        warm = bar.add_task("warming up", total=len(CANDIDATES))
        for _, changes in CANDIDATES:
            run = session.run(prompts[0], label="warm-up",
                              **{**changes, "limits.max_new_tokens": 16})
            _wait(session, run)
            session.store.delete(run.id)
            bar.advance(warm)
        work = bar.add_task("measuring", total=len(prompts) * len(CANDIDATES))
        for index, prompt in enumerate(prompts):
            for name, changes in CANDIDATES:
                bar.update(work, description=f"{name}, prompt {index + 1} of {len(prompts)}")
                run = session.run(prompt, label=f"{name}: {KINDS[index % len(KINDS)]}", **{
                    **changes, "quality.level": quality if index == 0 else "off"})
                _wait(session, run)
                groups[name].append(run)
                bar.advance(work)
    session.pin(groups["baseline"][0])
    return groups


def demo_prompts() -> list[str]:
    """One bundled prompt per kind."""
    from workbench import zoo

    found = []
    for kind in KINDS:
        prompts = zoo.prompts(kind)
        if not prompts:
            raise SettingsError(f"the bundled prompts have no kind {kind!r}")
        found.append(prompts[0].text)
    return found


def _wait(session: Session, run: Run) -> None:
    """Until the run ends; Ctrl-C cancels it and keeps what was generated."""
    try:
        while not run.wait(0.2):
            pass
    except KeyboardInterrupt:
        session.cancel(run)
        run.wait(10)
        raise
    raise_for(run)


def averages(runs: list[Run]) -> dict[str, float | None]:
    """Mean over the prompts that have the metric; memory is the peak over all."""
    result: dict[str, float | None] = {}
    for name, _, _ in COLUMNS:
        values = [v for r in runs if (v := metric_value(r, name)) is not None]
        result[name] = None if not values else (
            max(values) if name.startswith("peak") else sum(values) / len(values))
    return result


def write_report(groups: dict[str, list[Run]], output: Path) -> Path:
    from workbench.report import write

    output.parent.mkdir(parents=True, exist_ok=True)
    interleaved = [runs[i] for i in range(len(groups["baseline"])) for runs in groups.values()]
    return write(interleaved, output, title="int4 weights and a draft model on the bundled model")


def show(groups: dict[str, list[Run]], report: Path) -> None:
    out = console()
    base = averages(groups["baseline"])
    rows = []
    for name, runs in groups.items():
        mean, cells = averages(runs), [name]
        for metric, _, _ in COLUMNS:
            cell = show_metric(metric, mean[metric])
            now, then = mean[metric], base[metric]
            if name != "baseline" and metric == "tok_per_s" and now and then:
                cell += f" ({now / then:.2f}x)"
            cells.append(cell)
        rows.append(cells)
    headings = ["", *[h for _, h, _ in COLUMNS]]
    turned = [[headings[i], *[r[i] for r in rows]] for i in range(1, len(headings))]
    out.print(text_table("", ["mean over prompts", *[r[0] for r in rows]], turned))
    for line in reasons([r for runs in groups.values() for r in runs]):
        out.print(line, style="dim", markup=False, soft_wrap=True)
    path = groups["baseline"][0].path
    folder = path.parent if path is not None else "not saved"
    for line in (f"\nreport     {report.resolve()}", f"runs       {folder}",
                 "           workbench runs | compare | replay | report read them",
                 "notebook   workbench lab      (in a checkout: make lab)",
                 "dashboard  workbench serve    (in a checkout: make serve)"):
        out.print(line, markup=False, soft_wrap=True)
