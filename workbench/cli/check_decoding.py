"""``workbench check-decoding``: is a speculative output the plain target's own, token by token?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.bench_decoding import base_settings, chosen_prompts, loaded, progress
from workbench.cli.common import console, find_run, print_json, settings_options, text_table
from workbench.errors import SettingsError, WorkbenchError

if TYPE_CHECKING:
    from workbench.speculation.equality import Verdict


@click.command("check-decoding")
@click.argument("run", required=False)
@click.option("--prompts", "folder", type=click.Path(path_type=Path),
              help="a folder of .txt or .jsonl prompts (default: the bundled ones)")
@click.option("--kinds", metavar="NAME,...", help="only these kinds of prompt")
@click.option("--each", type=click.IntRange(1), default=2, show_default=True, help="prompts of each kind")
@click.option("--new-tokens", "-n", default=64, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def command(run: str | None, folder: Path | None, kinds: str | None, each: int, new_tokens: int,
            as_json: bool, **options: Any) -> None:
    """Feed the output of a drafting method to the plain target and label every difference: numeric near-tie
    (the two best tokens closer than the paths' measured rounding noise) or real bug.

    With RUN (an id, its beginning, or last) a recorded run is checked; else prompts are decoded with the
    settings given, for example: workbench check-decoding --decoding token_recycling. Exit code 1 on bugs."""
    found = _of_run(run) if run else _of_settings(options, folder, kinds, each, new_tokens)
    bugs = sum(v.bugs for _, v in found)
    if as_json:
        print_json({"bugs": bugs, "near_ties": sum(v.near_ties for _, v in found),
                    "texts": [{"name": name, **v.to_dict()} for name, v in found]})
    else:
        _show(found)
    if bugs:
        raise WorkbenchError(f"{bugs} tokens are not the plain target's own and are no near-ties: "
                             "this is a bug of the decoding method or of a kernel")


def _of_run(name: str) -> list[tuple[str, Verdict]]:
    from workbench import speculation

    run = find_run(name)
    with progress() as told:
        found = speculation.check_run(run, told=told)
    return [(f"{run.id} #{i + 1}" if len(found) > 1 else run.id, v) for i, v in enumerate(found)]


def _of_settings(options: dict[str, Any], folder: Path | None, kinds: str | None, each: int,
                 new_tokens: int) -> list[tuple[str, Verdict]]:
    from workbench import speculation

    base = base_settings(options, None, new_tokens)
    if base.decoding.name() == "plain":
        raise SettingsError("plain decoding is what the others are compared with; name a method, for "
                            "example --decoding token_recycling")
    texts = [p for rows in chosen_prompts(folder, kinds, each).values() for p in rows]
    with loaded(base) as model, progress() as told:
        found = speculation.check(model, [p.text for p in texts], settings=base, told=told)
    return [(p.id, v) for p, v in zip(texts, found, strict=True)]


def _show(found: list[tuple[str, Verdict]]) -> None:
    rows = [[name, str(v.places), str(v.near_ties), str(v.bugs), f"{v.noise:.2g}"] for name, v in found]
    console().print(text_table("", ["text", "tokens", "near-ties", "bugs", "noise"], rows))
    for name, verdict in found:
        if not verdict.exact:
            console().print(f"{name}: {verdict.describe()}", markup=False, soft_wrap=True)
    if all(v.exact for _, v in found):
        console().print("every token is the plain target's own")
