"""``workbench fingerprint``: which configuration produced these logits, and did mine change?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import console, print_json, split_pair, text_table
from workbench.errors import SettingsError, one_of

if TYPE_CHECKING:
    from workbench.fingerprint.golden import Verdict
    from workbench.fingerprint.study import Study


@click.command("fingerprint")
@click.option("--model", "-m", default="bundled", show_default=True, help="the model to look at")
@click.option("--prompts", default=60, show_default=True, help="prompts per configuration")
@click.option("--only", multiple=True, metavar="NAME", help="only these configurations; may be repeated")
@click.option("--border", is_flag=True, help="also search prompts whose next token differs")
@click.option("--save", type=click.Path(path_type=Path), help="save this configuration's fingerprint")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE",
              help="with --save: settings of the configuration, like weights=int8")
@click.option("--check", "against", type=click.Path(path_type=Path),
              help="did the configuration of this file change?")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(model: str, prompts: int, only: tuple[str, ...], border: bool, save: Path | None,
            changes: tuple[str, ...], against: Path | None, as_json: bool) -> None:
    """Tell configurations apart by the bits of their logits, or check one against a saved file."""
    if save is not None and against is not None:
        raise SettingsError("--save and --check exclude each other")
    if changes and save is None:
        raise SettingsError("--set describes the configuration that --save saves; give both")
    # Before torch is imported: threads that spin collapse when a neighbour takes a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if save is not None:
        return _save(save, model, dict(split_pair(c) for c in changes), min(prompts, 64))
    if against is not None:
        return _check(against, only, as_json)
    _study(model, prompts, only, border, as_json)


def _chosen(only: tuple[str, ...]) -> list[Any]:
    from workbench.fingerprint.collect import available

    every = available()
    names = [c.name for c in every]
    for name in only:
        if name not in names:
            raise SettingsError(one_of("configuration", name, names))
    return [c for c in every if not only or c.name in only]


def _study(model: str, prompts: int, only: tuple[str, ...], border: bool, as_json: bool) -> None:
    from workbench.fingerprint import border as borders
    from workbench.fingerprint.collect import collect
    from workbench.fingerprint.study import study

    configs = _chosen(only)
    with console(stderr=True).status("starting") as status:
        def tell(what: str, share: float) -> None:
            status.update(f"{what} ({100 * share:.0f} %)")

        found = collect(configs, model, prompts, tell)
        tell("classifying", 1.0)
        result = study(found)
        pairs = borders.search(configs, model, progress=tell)[1] if border else None
    if as_json:
        print_json(described(result, found.skipped, found.unsteady, pairs))
    else:
        _show(result, found.skipped, found.unsteady, pairs)


def described(result: Study, skipped: dict[str, str], unsteady: list[str],
              pairs: dict[tuple[str, str], int] | None) -> dict[str, Any]:
    """JSON-ready."""
    def accuracy(a: Any) -> Any:
        return None if a is None else {"value": a.value, "low": a.low, "high": a.high,
                                       "chance": a.chance, "samples": a.samples}

    tasks = [{"question": t.question, "groups": t.groups, "blind": accuracy(t.blind),
              "informed": accuracy(t.informed), "shuffled_labels": accuracy(t.control),
              "by_group": {n: {"blind": b, "informed": i} for n, (b, i) in t.by_group.items()}}
             for t in result.tasks]
    return {"groups": result.groups, "reference": result.reference, "prompts": result.prompts,
            "tasks": tasks,
            "token_differs": {f"{a} | {b}": n for (a, b), n in result.tokens.items()},
            "border_token_differs": None if pairs is None else {
                f"{a} | {b}": n for (a, b), n in pairs.items()},
            "skipped": skipped, "not_repeatable": unsteady}


def _show(result: Study, skipped: dict[str, str], unsteady: list[str],
          pairs: dict[tuple[str, str], int] | None) -> None:
    out = console()
    for name in unsteady:
        out.print(f"Not repeatable: {name} gives other bits every time, so nothing can be said of it.",
                  markup=False)
    for group in result.groups:
        if len(group) > 1:
            out.print(f"Cannot be told apart: {', '.join(group)} (the same bits on all {result.prompts} "
                      "prompts).", markup=False)
    if not result.tasks:
        out.print("All configurations give the same bits; there is nothing to tell apart.")
    for task in result.tasks:
        out.print(f"\n{task.question} {', '.join(task.groups)}", style="bold", markup=False)
        out.print(f"  from unseen prompts' logits alone: {task.blind}{_verdict(task.blind)}", markup=False)
        out.print(f"  with {result.reference}'s logits of the same prompts: {task.informed}"
                  f"{_verdict(task.informed)}", markup=False)
        out.print(f"  control, shuffled training labels: {task.control}", markup=False)
        rows = [[n, f"{100 * b:.0f} %", f"{100 * i:.0f} %"] for n, (b, i) in task.by_group.items()]
        out.print(text_table("Named rightly", ["configuration", "logits alone", "with reference"], rows))
        for true, said, share in task.confused[:3]:
            out.print(f"  {true} is taken for {said}: {100 * share:.0f} %", markup=False)
    for label, found in (("the plain prompts", result.tokens), ("border prompts", pairs or {})):
        told = sum(n > 0 for n in found.values())
        if found:
            out.print(f"By the next token alone, on {label}: {told} of {len(found)} pairs differ.",
                      markup=False)
    for name, why in skipped.items():
        out.print(f"Left out: {name}: {why}", markup=False)


def _verdict(found: Any) -> str:
    return "" if found.better else "; not better than chance: these cannot be told apart so"


def _save(path: Path, model: str, changes: dict[str, str], prompts: int) -> None:
    from workbench.fingerprint import golden
    from workbench.fingerprint.collect import Config

    name = ", ".join(f"{k}={v}" for k, v in changes.items()) or "default settings"
    golden.save(golden.make(Config(name, changes), model, prompts), path)
    console(stderr=True).print(f"saved {name} on {prompts} prompts to {path}", markup=False)


def _check(path: Path, only: tuple[str, ...], as_json: bool) -> None:
    from workbench.fingerprint import golden

    saved = golden.read(path)
    others = _chosen(only) if only else []
    with console(stderr=True).status("checking") as status:
        verdict: Verdict = golden.check(
            saved, others, lambda what, share: status.update(f"{what} ({100 * share:.0f} %)"))
    if as_json:
        print_json({"identical": verdict.identical, "prompts": verdict.prompts, "same": verdict.same,
                    "tokens_changed": verdict.tokens, "largest": verdict.largest,
                    "changed": list(verdict.changed_versions), "looks_like": list(verdict.looks_like)})
    else:
        console().print(str(verdict), markup=False)
