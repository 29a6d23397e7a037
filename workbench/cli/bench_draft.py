"""``workbench bench draft``: the fastest drafting method and length for this model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.bench_decoding import (
    base_settings,
    chosen_prompts,
    loaded,
    narrow,
    progress,
    split_methods,
)
from workbench.cli.common import console, print_json, settings_options
from workbench.units import format_bytes

if TYPE_CHECKING:
    from workbench.speculation.searching import Place, Ranking


@click.command("draft")
@click.argument("source", metavar="[MODEL]", required=False)
@click.option("--prompts", "folder", type=click.Path(path_type=Path),
              help="a folder of .txt or .jsonl prompts like those to be decoded (default: the bundled ones)")
@click.option("--kinds", metavar="NAME,...", help="only these kinds of prompt")
@click.option("--each", type=click.IntRange(1), default=1, show_default=True, help="prompts of each kind")
@click.option("--methods", metavar="NAME,...", help="only these candidates (default: every lossless method "
              "that can work, with several lengths)")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def command(source: str | None, folder: Path | None, kinds: str | None, each: int, methods: str | None,
            as_json: bool, **options: Any) -> None:
    """Try every lossless drafting method with several lengths beside plain decoding, drop the slower half,
    try the others longer, and so on. Ctrl-C ends the search with what is known.

    The result is kept for this model and shown in the panel "Does speculation pay?"."""
    from workbench import speculation

    base = base_settings(options, source, 64)
    texts = [p.text for rows in chosen_prompts(folder, kinds, each).values() for p in rows]
    with interruptible() as cancelled, loaded(base) as model, progress() as told:
        found = speculation.search(model, texts, settings=base, told=told, cancelled=cancelled,
                                   methods=split_methods(methods) if methods else None)
    if as_json:
        return print_json(found.to_dict())
    show(found)
    return None


class interruptible:
    """The first Ctrl-C asks for an end, so that what is known is kept; a second one ends at once."""

    def __enter__(self) -> Any:
        import signal

        self._asked = False

        def ask(number: int, frame: Any) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True

        self._before = signal.signal(signal.SIGINT, ask)
        return lambda: self._asked

    def __exit__(self, *error: object) -> None:
        import signal

        signal.signal(signal.SIGINT, self._before)


def show(found: Ranking) -> None:
    """The ranking, and how to use its best."""
    console().print(narrow("", ["method", "x plain", "quartiles", "tokens/fwd", "kept %", "memory",
                                "rounds"], [_line(p) for p in found.places]))
    console().print(found.describe(), markup=False, soft_wrap=True)
    if found.best is not None:
        console().print(f"to use it: --set decoding='{found.best.decoding}'", markup=False, soft_wrap=True)
    if not found.finished:
        console(stderr=True).print("the search was ended early; later rounds would be more certain")
    for method, why in found.skipped.items():
        console(stderr=True).print(f"{method} was left out: {why}", markup=False, soft_wrap=True)


def _line(place: Place) -> list[str]:
    s = place.summary
    kept = "–" if s.acceptance is None else f"{100 * s.acceptance:.0f}"
    return [place.decoding, f"{s.ratio:.2f}", f"{s.ratio_low:.2f}-{s.ratio_high:.2f}",
            f"{s.per_forward or 1:.2f}", kept, format_bytes(s.extra_bytes), str(place.rounds)]
