"""``workbench bench compression``: every weight scheme in one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import clean, console, print_json, text_table
from workbench.errors import StoreError
from workbench.settings import Settings
from workbench.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from workbench.events import Event
    from workbench.quality.compression import Line

_HEADINGS = ["weights", "matrices", "bits", "x bf16", "perplexity", "KL mean", "KL p99", "same top-1",
             "calibration", "peak"]


@click.command("compression")
@click.argument("model", required=False)
@click.option("--methods", default="", metavar="A,B,...", help='schemes, like int4,"gptq(bits=3)"; default: '
              "each format near 8, 4, 3 and 2 bits")
@click.option("--full", is_flag=True, help="all of the evaluation text; else the beginning of each document")
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(2), help="alternating speed runs")
@click.option("--no-speed", is_flag=True, help="leave speed out")
@click.option("--again", is_flag=True, help="measure speeds and calibrations that are kept, too")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="also write the table as JSON")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(model: str | None, methods: str, full: bool, rounds: int, no_speed: bool, again: bool,
            out: Path | None, as_json: bool) -> None:
    """Bytes, bits per weight, speed, quality with errors and calibration of every scheme of MODEL.

    Speeds alternate with the untouched model's. Ctrl-c stops; the same command goes on where it was."""
    from workbench.quality.compression import table

    settings = Settings().with_({"model.source": model} if model else {})
    if out is not None:
        _place(out)
    lines: list[Line] = []
    with console(stderr=True).status("opening the model") as status:
        for line in table(settings, _split(methods), _teller(status), lambda: False,
                          level="full" if full else "quick", speed=not no_speed, rounds=rounds, again=again):
            lines.append(line)
    data = {"model": settings.model.source, "level": "full" if full else "quick", "machine": _machine(),
            "lines": [x.to_dict() for x in lines]}
    if out is not None:
        _write(out, data)
    if as_json:
        return print_json(data)
    return _print(lines)


def _split(text: str) -> list[str]:
    """At commas outside of parentheses."""
    found, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            found.append("")
        else:
            found[-1] += c
    return [s.strip() for s in found if s.strip()]


def _machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import platform

    import torch

    from workbench.kernels import native
    from workbench.quality.compression import TOKENS

    return {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
            "isa": native.isa() or native.why_not(), "torch": torch.__version__, "tokens_per_run": TOKENS}


def _place(path: Path) -> Path:
    """Where the table is written before it is renamed; asked before anything is measured."""
    aside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        aside.unlink()
    except OSError as error:
        raise StoreError(f"the table cannot be written to {path} ({error.strerror}); choose another --out"
                         ) from None
    return aside


def _write(path: Path, data: dict[str, Any]) -> None:
    aside = _place(path)
    aside.write_text(json.dumps(clean(data), indent=1) + "\n", "utf-8")
    aside.replace(path)


def _teller(status: Any) -> Callable[[Event], None]:
    from workbench.events import Progress, Quality

    now: dict[str, str] = {}

    def tell(event: Event) -> None:
        if isinstance(event, Progress):
            if event.what == "open":
                now.clear()
            share = f" {event.done / event.total:.0%}" if event.total else ""
            now["step"] = f"{event.detail} {event.what}{share}"
        elif isinstance(event, Quality) and event.metric in ("perplexity", "kl_mean"):
            now[event.metric] = f"{event.metric} {event.value:.4g}"
        status.update("  ".join(now.values()))
    return tell


def _print(lines: list[Line]) -> None:
    out = console()
    if not out.is_terminal:
        out.width = 150
    out.print(text_table("Compression of the decoder's matrices", _HEADINGS,
                         [_cells(x) for x in lines if x.row is not None]))
    first = lines[0].row
    assert first is not None
    out.print(f"{first.tokens} scored tokens; ± is one standard error; KL (nats) and top-1 against bf16. "
              "x bf16: decoding speed over bf16's, runs alternating, median and quartiles. Bits count "
              "scales and padding. Calibration: in a process of its own, peak over what it held before.",
              markup=False)
    for x in lines:
        if x.error:
            out.print(f"{x.scheme}: {x.error}", markup=False)
        elif x.row is not None:
            out.print(f"{x.scheme}: {x.row.effective}", style="dim", markup=False)


def _cells(line: Line) -> list[str]:
    r, s, c = line.row, line.speed, line.calibration
    assert r is not None
    plain = r.kl_mean is None
    spent = "" if c is None else "none" if not c.seconds else format_seconds(c.seconds)
    peak = ""
    if c is not None and c.seconds:
        peak = "unknown" if c.peak_bytes is None else format_bytes(c.peak_bytes)
    return [line.scheme, format_bytes(r.nbytes), f"{r.bits:.2f}",
            "1" if plain else "" if s is None else f"{s.ratio:.2f} ({s.low:.2f}-{s.high:.2f})",
            _with(r.perplexity, r.perplexity_se, 5), "" if plain else _with(r.kl_mean, r.kl_se),
            "" if r.kl_p99 is None else f"{r.kl_p99:.2g}", "" if r.top1 is None else f"{100 * r.top1:.1f} %",
            spent, peak]


def _with(value: float | None, se: float | None, digits: int = 3) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" + ("" if se is None else f" ± {se:.2g}")
