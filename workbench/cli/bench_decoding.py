"""``workbench bench decoding``: every drafting method beside plain decoding, by kind of prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import (
    clean,
    console,
    print_json,
    settings_from,
    settings_options,
    text_table,
)
from workbench.errors import SettingsError, one_of
from workbench.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from workbench.speculation.benchmarking import Results, Row
    from workbench.zoo import Prompt

#: Benchmarked when no method is named; heads that this model has not got are left out with their reason.
METHODS = ("draft_model", "optimal_tree", "prompt_lookup", "input_copy", "token_recycling", "adaptive_tables",
           "medusa", "eagle", "jacobi")
_COLUMNS = ["kind", "length", "fwd/tok", "kept", "x plain", "quartiles", "draft", "memory", "same"]


@click.command("decoding")
@click.argument("source", metavar="[MODEL]", required=False)
@click.option("--methods", metavar="NAME,...", help="with arguments where wanted: "
              "'token_recycling(nodes=30),draft_model(draft=wb-1m)'; all: every method that can work here")
@click.option("--prompts", "folder", type=click.Path(path_type=Path),
              help="a folder of .txt files, or .jsonl with turns and category as in Spec-Bench "
              "(default: bundled prompts of eight kinds)")
@click.option("--kinds", metavar="NAME,...", help="only these kinds of prompt")
@click.option("--each", type=click.IntRange(1), help="prompts of each kind at most")
@click.option("--new-tokens", "-n", default=96, show_default=True, type=click.IntRange(2))
@click.option("--repeats", "-r", default=2, show_default=True, type=click.IntRange(1))
@click.option("--fallback/--no-fallback", default=False, show_default=True,
              help="let methods decode plainly while they do not pay, as runs do")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True,
              help="cpu: seconds of this process, for a machine that others use; give --threads 1")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
              help="write the JSON there; a benchmark that was interrupted goes on from FILE.state")
@settings_options
def command(source: str | None, methods: str | None, folder: Path | None, kinds: str | None,
            each: int | None, new_tokens: int, repeats: int, fallback: bool, clock: str, as_json: bool,
            out: Path | None, **options: Any) -> None:
    """Accepted length, forwards per token, tok/s against plain decoding, memory, and whether the text is
    the same, of every drafting METHOD on every kind of prompt. Greedy unless --temperature is given.

    Outputs that differ from plain decoding's are judged token by token: near-tie or bug."""
    from workbench.speculation.benchmarking import Benchmark
    from workbench.store.environment import collect

    base = base_settings(options, source, new_tokens)
    texts = chosen_prompts(folder, kinds, each)
    names = _methods(methods)
    with loaded(base) as model, progress() as told:
        bench = Benchmark(model, base, names, texts, repeats=repeats, batch=base.limits.batch,
                          fallback=None if fallback else False, clock=clock,
                          state=out.with_name(out.name + ".state") if out else None, told=told)
        found = bench.run()
    data = {"settings": base.to_dict(), "fallback": fallback, "repeats": repeats, "clock": clock,
            "environment": collect(), **found.to_dict()}
    if out:
        out.write_text(json.dumps(clean(data), indent=1, default=str) + "\n", "utf-8")
        out.with_name(out.name + ".state").unlink(missing_ok=True)
    if as_json:
        return print_json(data)
    show(found)
    return None


def base_settings(options: dict[str, Any], source: str | None, new_tokens: int) -> Any:
    """Without telemetry, greedy where nothing else is said, to the last token where no limit is given."""
    sampled = options.get("temperature") is not None or any(
        "temperature" in pair for pair in options.get("changes", ()))
    base = settings_from(options).with_({"limits.max_new_tokens": new_tokens, "telemetry.preset": "off",
                                         "telemetry.power": False, "limits.stop_at_eos": False})
    if source:
        base = base.with_({"model.source": source})
    return base if sampled else base.with_({"sampling.temperature": 0.0})


def chosen_prompts(folder: Path | None, kinds: str | None, each: int | None) -> dict[str, list[Prompt]]:
    """Kind -> prompts, of a folder or the bundled ones."""
    from workbench.speculation import prompts

    found = prompts.folder(folder, each) if folder else prompts.bundled(each)
    if not kinds:
        return found
    wanted = [k.strip() for k in kinds.split(",") if k.strip()]
    for kind in wanted:
        if kind not in found:
            raise SettingsError(one_of("kind of prompt", kind, list(found)))
    return {kind: found[kind] for kind in wanted}


def _methods(text: str | None) -> list[str]:
    if text is None:
        return list(METHODS)
    if text.strip() == "all":
        from workbench.techniques.base import family

        return [name for name in family("decoding")
                if name != "plain" and not name.startswith("diffusion_")]
    return [m for m in split_methods(text) if m != "plain"]


def split_methods(text: str) -> list[str]:
    """At commas outside of parentheses."""
    found, depth, start = [], 0, 0
    for i, letter in enumerate(text + ","):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth <= 0:
            found.append(text[start:i].strip())
            start = i + 1
    return [m for m in found if m]


@contextmanager
def loaded(base: Any) -> Iterator[Any]:
    """The model in this process, given back afterwards."""
    from workbench.speculation.benchmarking import opened

    with ExitStack() as stack:
        with console(stderr=True).status("loading the model"):
            model = stack.enter_context(opened(base))
        yield model


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr; Ctrl-C ends the work and keeps what is done."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total or None,
                                                   description=what)


def show(found: Results) -> None:
    """One table per method, its line over all kinds last; then the methods beside each other."""
    methods = list(dict.fromkeys(r.method for r in found.rows if r.method != "plain"))
    for method in methods:
        rows = [r for r in found.rows if r.method == method]
        console().print(narrow(method, _COLUMNS, [_line(r) for r in rows]))
    if len(methods) > 1:
        every = sorted((found.row(m) for m in methods), key=lambda r: -r.summary.ratio)
        console().print(narrow("every kind, the fastest first", ["method", *_COLUMNS[1:]],
                                [[r.method, *_line(r)[1:]] for r in every]))
    console(stderr=True).print(
        "length: tokens per verification; fwd/tok: target forwards per new token; kept: drafted tokens that "
        "the target kept, of all that were drafted; x plain: tok/s against plain decoding in the same turn, "
        "median and quartiles; draft: its share of the time; memory: besides plain decoding's; same: texts "
        "that are plain decoding's", soft_wrap=True, markup=False)
    for method, why in found.skipped.items():
        console(stderr=True).print(f"{method} was left out: {why}", markup=False, soft_wrap=True)


def _line(row: Row) -> list[str]:
    s = row.summary
    return [row.kind, _number(s.length), _number(s.forwards_per_token),
            f"{s.accepted}/{s.drafted}" if s.drafted else "–",
            f"{s.ratio:.2f}", f"{s.ratio_low:.2f}-{s.ratio_high:.2f}" if s.runs > 1 else "–",
            f"{100 * s.draft_share:.0f}%", format_bytes(s.extra_bytes), identical(row)]


def narrow(title: str, headings: list[str], rows: list[list[str]]) -> Table:
    """Without lines, so that nine columns fit a terminal of 80."""
    table = text_table(f"\n{title}", headings, rows)
    table.box, table.pad_edge, table.collapse_padding = None, False, True
    return table


def identical(row: Row) -> str:
    """``12/12``, with what the others' differences are."""
    said = f"{row.summary.same}/{row.summary.runs}"
    if row.near_ties is None or row.bugs is None:
        return said + " lossy"
    if row.near_ties:
        said += f", {row.near_ties} near-ties"
    return said + (f", {row.bugs} BUGS" if row.bugs else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
