"""``workbench evaluate``: schemes of one model beside each other: size, quality with error bars, speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import console, print_json, settings_from, settings_options, text_table
from workbench.errors import SettingsError
from workbench.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from workbench.events import Event
    from workbench.quality.study import Row

_DEFAULT = ("int8", "int4")


@click.command("evaluate")
@click.argument("schemes", nargs=-1)
@click.option("--full", is_flag=True, help="all of the evaluation text; else the beginning of each document")
@click.option("--tasks", "count", default=32, show_default=True, help="generated tasks to answer; 0: none")
@click.option("--speed", is_flag=True, help="also tokens per second, one scheme after the other")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def command(schemes: tuple[str, ...], full: bool, count: int, speed: bool, as_json: bool, **options: Any
            ) -> None:
    """Compare SCHEMES (int4, "gptq(bits=3)", "mixed(bits=5)" ...) with the untouched model, token by token.

    Figures appear while they are measured and narrow; ctrl-c stops, and the same command goes on."""
    from workbench.quality.study import study

    settings = settings_from(options)
    if settings.quality.level != "off":
        raise SettingsError("evaluate measures quality by itself; leave --quality out, or take --full")
    rows: list[Row] = []
    with console(stderr=True).status("opening the model") as status:
        for row in study(settings, schemes or _DEFAULT, _teller(status, schemes or _DEFAULT), lambda: False,
                         level="full" if full else "quick", tasks=count, speed=speed):
            rows.append(row)
    if as_json:
        print_json({"model": settings.model.source, "level": "full" if full else "quick",
                    "rows": [asdict(r) for r in rows]})
        return
    _print(rows, speed)


def _teller(status: Any, schemes: tuple[str, ...]) -> Callable[[Event], None]:
    """One line: the scheme, how far, and the figures so far with their errors."""
    from workbench.events import Progress, Quality

    now: dict[str, str] = {}

    def tell(event: Event) -> None:
        if isinstance(event, Progress):
            if event.what == "open":
                now.clear()
                now["scheme"] = event.detail
            share = f" {event.done / event.total:.0%}" if event.total else ""
            now["step"] = event.what + share
        elif isinstance(event, Quality):
            now[event.metric] = f"{event.metric} {event.value:.4g}" + (
                f" ± {event.se:.2g}" if event.se is not None else "")
        status.update("  ".join(now.values()))
    return tell


def _print(rows: list[Row], speed: bool) -> None:
    out = console()
    if not out.is_terminal:
        out.width = 160
    tok = ["tok/s"] if speed else []
    table = text_table("Quality beside size", [
        "weights", "matrices", "bits", "perplexity", "KL mean", "KL p99", "same top-1", "tasks right",
        "text parts at", *tok, "ready in"], [_cells(r, rows[0], speed) for r in rows])
    out.print(table)
    first = rows[0]
    out.print(f"{first.tokens} scored tokens; ± is one standard error; KL (nats) and top-1 against "
              f"{first.scheme}. Bits count scales and padding of the decoder's matrices.", markup=False)
    if speed:
        out.print("tok/s: 64 greedy tokens, prompt included, one scheme after the other; `workbench bench` "
                  "interleaves.", markup=False)
    for r in rows:
        out.print(f"{r.scheme}: {r.effective}", style="dim", markup=False)


def _cells(r: Row, first: Row, speed: bool) -> list[str]:
    reference = r is first
    cells = [r.scheme, format_bytes(r.nbytes), f"{r.bits:.3g}", _with(r.perplexity, r.perplexity_se, 5),
             "" if reference else _with(r.kl_mean, r.kl_se), "" if r.kl_p99 is None else f"{r.kl_p99:.2g}",
             "" if r.top1 is None else f"{100 * r.top1:.1f} %",
             "" if r.accuracy is None else f"{100 * r.accuracy:.0f} ± {100 * (r.accuracy_se or 0):.0f} %",
             "" if reference else ("nowhere in 64" if r.divergence is None else f"token {r.divergence}")]
    if speed:
        ratio = "" if reference or not first.tok_per_s or not r.tok_per_s else \
            f" ({r.tok_per_s / first.tok_per_s:.2f}x)"
        cells.append("" if r.tok_per_s is None else format_number(r.tok_per_s, "") + ratio)
    return [*cells, format_seconds(r.prepare_s)]


def _with(value: float | None, se: float | None, digits: int = 3) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" + ("" if se is None else f" ± {se:.2g}")
