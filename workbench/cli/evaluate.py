"""``workbench evaluate``: schemes of one model beside each other: size, quality with error bars, speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import console, print_json, settings_from, settings_options, text_table
from workbench.errors import SettingsError
from workbench.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from workbench.events import Event
    from workbench.quality.lm_eval import Score, Task
    from workbench.quality.study import Row

_DEFAULT = ("int8", "int4")
#: Scores of lm-eval beside the other figures; more of them get a table of their own.
_BESIDE = 2


@click.command("evaluate")
@click.argument("schemes", nargs=-1)
@click.option("--full", is_flag=True, help="all of the evaluation text; else the beginning of each document")
@click.option("--tasks", "count", default=32, show_default=True, help="generated tasks to answer; 0: none")
@click.option("--task", "names", multiple=True, metavar="lm_eval:NAME",
              help="also a task of lm-eval, or a task's YAML file; may be repeated")
@click.option("--limit", type=int, metavar="N", help="documents of each lm-eval task at most")
@click.option("--fewshot", type=int, metavar="N", help="examples before each question, if not the task's own")
@click.option("--chat", is_flag=True, help="lm-eval's prompts in the model's chat template")
@click.option("--task-folder", type=click.Path(path_type=Path), help="also look for lm-eval task files here")
@click.option("--speed", is_flag=True, help="also tokens per second, one scheme after the other")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def command(schemes: tuple[str, ...], full: bool, count: int, names: tuple[str, ...], limit: int | None,
            fewshot: int | None, chat: bool, task_folder: Path | None, speed: bool, as_json: bool,
            **options: Any) -> None:
    """Compare SCHEMES (int4, "gptq(bits=3)", "mixed(bits=5)" ...) with the untouched model, token by token.

    Figures appear while they are measured and narrow; ctrl-c stops, and the same command goes on."""
    from workbench.quality.study import study

    settings = settings_from(options)
    if settings.quality.level != "off":
        raise SettingsError("evaluate measures quality by itself; leave --quality out, or take --full")
    wanted = _tasks(names, limit, fewshot, chat, task_folder)
    rows: list[Row] = []
    with console(stderr=True).status("opening the model") as status:
        for row in study(settings, schemes or _DEFAULT, _teller(status, schemes or _DEFAULT), lambda: False,
                         level="full" if full else "quick", tasks=count, speed=speed,
                         benchmarks=wanted):
            rows.append(row)
    if as_json:
        print_json({"model": settings.model.source, "level": "full" if full else "quick",
                    "rows": [asdict(r) for r in rows]})
        return
    _print(rows, speed, wanted)


def _tasks(names: Sequence[str], limit: int | None, fewshot: int | None, chat: bool, folder: Path | None
           ) -> list[Task]:
    """The tasks of lm-eval that ``--task`` names."""
    from workbench.quality.lm_eval import PREFIX, Task

    if not names:
        given = {"--limit": limit, "--fewshot": fewshot, "--chat": chat or None, "--task-folder": folder}
        idle = next((option for option, value in given.items() if value is not None), None)
        if idle:
            raise SettingsError(f"{idle} is for tasks of lm-eval; name one with --task lm_eval:NAME")
        return []
    for name in names:
        if not name.startswith(PREFIX):
            raise SettingsError(f"--task {name} is not {PREFIX}NAME; try --task {PREFIX}{name} "
                                "(the bundled tasks are asked for by --tasks N)")
    return [Task(name, limit, fewshot, folder, chat) for name in dict.fromkeys(names)]


def _teller(status: Any, schemes: tuple[str, ...]) -> Callable[[Event], None]:
    """One line: the scheme, how far, and the figures so far with their errors."""
    from workbench.events import Progress, Quality

    now: dict[str, str] = {}
    figures: dict[str, str] = {}

    def tell(event: Event) -> None:
        if isinstance(event, Progress):
            if event.what == "open":
                now.clear()
                figures.clear()
                now["scheme"] = event.detail
            share = f" {event.done / event.total:.0%}" if event.total else ""
            now["step"] = event.what + share
        elif isinstance(event, Quality):
            figures.pop(event.metric, None)
            figures[event.metric] = f"{event.metric} {event.value:.4g}" + (
                f" ± {event.se:.2g}" if event.se is not None else "")
        from rich.text import Text  # brackets in a task's name are not markup

        status.update(Text("  ".join([*now.values(), *list(figures.values())[-4:]])))
    return tell


def _print(rows: list[Row], speed: bool, wanted: Sequence[Task]) -> None:
    out = console()
    if not out.is_terminal:
        out.width = 160 + 32 * sum(len(r.scores) for r in rows[:1])
    tok = ["tok/s"] if speed else []
    scores = [_scores(row, wanted) for row in rows]
    asked = [s.name for s in scores[0] if not s.within]
    beside = asked if len(asked) <= _BESIDE else []
    table = text_table("Quality beside size", [
        "weights", "matrices", "bits", "perplexity", "KL mean", "KL p99", "same top-1", "tasks right",
        "text parts at", *beside, *tok, "ready in"],
        [_cells(r, rows[0], speed, [_score(s, n, scores[0]) for n in beside])
         for r, s in zip(rows, scores, strict=True)])
    out.print(table)
    if asked and not beside:
        out.print(text_table("Tasks of lm-eval", ["score", *[r.scheme for r in rows]], [
            [n, *[_score(s, n, scores[0]) for s in scores]] for n in asked]))
    for line in _about(scores[0], rows[0].scheme):
        out.print(line, markup=False)
    first = rows[0]
    out.print(f"{first.tokens} scored tokens; ± is one standard error; KL (nats) and top-1 against "
              f"{first.scheme}. Bits count scales and padding of the decoder's matrices.", markup=False)
    if speed:
        out.print("tok/s: 64 greedy tokens, prompt included, one scheme after the other; `workbench bench` "
                  "interleaves.", markup=False)
    for r in rows:
        out.print(f"{r.scheme}: {r.effective}", style="dim", markup=False)


def _scores(row: Row, wanted: Sequence[Task]) -> list[Score]:
    from workbench.quality.lm_eval import scores_from

    return [s for task in wanted for s in scores_from(row.scores[task.key])]


def _score(scores: list[Score], name: str, reference: list[Score]) -> str:
    """The figure; behind the reference's also how far it is from that, document by document."""
    from workbench.quality.lm_eval import paired

    found = next((s for s in scores if s.name == name), None)
    if found is None:
        return ""
    other = next((s for s in reference if s.name == name), None)
    apart = paired(found, other) if other is not None and scores is not reference else None
    return _with(found.value, found.se) + ("" if apart is None else f" ({apart[0]:+.2g} ± {apart[1]:.2g})")


def _about(scores: list[Score], reference: str) -> list[str]:
    """One line per task that was asked for: how much of it, and which one it is."""
    lines = dict[str, str]()
    for s in scores:
        if not s.within:
            version = f", version {s.version}" if s.version else ""
            better = " " + "; ".join(f"{o.metric}: {'more' if o.higher_is_better else 'less'} is better"
                                     for o in scores if o.task == s.task and o.higher_is_better is not None)
            lines[s.task] = (f"{s.task}: {s.count} of {s.original} documents{version}, {s.fewshot} examples, "
                             f"lm-eval {s.library}." + better + (f" Take care: {s.note}." if s.note else ""))
    if any(s.values for s in scores):
        lines[""] = f"In brackets: the difference to {reference} on the same documents, and its error."
    return list(lines.values())


def _cells(r: Row, first: Row, speed: bool, scores: list[str]) -> list[str]:
    reference = r is first
    cells = [r.scheme, format_bytes(r.nbytes), "" if r.bits is None else f"{r.bits:.3g}",
             _with(r.perplexity, r.perplexity_se, 5),
             "" if reference else _with(r.kl_mean, r.kl_se), "" if r.kl_p99 is None else f"{r.kl_p99:.2g}",
             "" if r.top1 is None else f"{100 * r.top1:.1f} %",
             "" if r.accuracy is None else f"{100 * r.accuracy:.0f} ± {100 * (r.accuracy_se or 0):.0f} %",
             "" if reference else ("nowhere in 64" if r.divergence is None else f"token {r.divergence}"),
             *scores]
    if speed:
        ratio = "" if reference or not first.tok_per_s or not r.tok_per_s else \
            f" ({r.tok_per_s / first.tok_per_s:.2f}x)"
        cells.append("" if r.tok_per_s is None else format_number(r.tok_per_s, "") + ratio)
    return [*cells, format_seconds(r.prepare_s)]


def _with(value: float | None, se: float | None, digits: int = 3) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" + ("" if se is None else f" ± {se:.2g}")
