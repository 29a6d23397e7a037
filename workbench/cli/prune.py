"""``workbench models prune | slice | sparsify``: a smaller or sparser copy of a model, as a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from workbench.cli.common import console, print_json

OUT = click.Path(path_type=Path)


def _text(function: Any) -> Any:
    """What all of them share."""
    for option in (
            click.option("--json", "as_json", is_flag=True, help="print JSON"),
            click.option("--text", "text", default="bundled", show_default=True,
                         help="calibration text: bundled, or a text file"),
            click.option("--length", default=256, show_default=True, type=click.IntRange(16),
                         help="tokens per window"),
            click.option("--samples", default=64, show_default=True, type=click.IntRange(1),
                         help="windows of calibration text")):
        function = option(function)
    return function


def _training(function: Any) -> Any:
    for option in (
            click.option("--rate", default=5e-4, show_default=True, type=float, help="learning rate"),
            click.option("--batch", default=8, show_default=True, type=click.IntRange(1),
                         help="windows of one step"),
            click.option("--square", default=0.0, show_default=True, type=click.FloatRange(0),
                         help="weight of SquareHead (hidden states, layer by layer)"),
            click.option("--kl", default=1.0, show_default=True, type=click.FloatRange(0),
                         help="weight of the divergence from the original's predictions"),
            click.option("--ce", default=0.0, show_default=True, type=click.FloatRange(0),
                         help="weight of the text's own next token")):
        function = option(function)
    return function


@click.command("prune")
@click.argument("model")
@click.argument("out", type=OUT)
@click.option("--depth", type=click.IntRange(1), help="layers that stay (default: all)")
@click.option("--ffn", type=click.IntRange(8), help="neurons that stay in each feed-forward part")
@click.option("--heads", type=click.IntRange(1), help="query heads that stay in each layer")
@click.option("--hidden", type=click.IntRange(8), help="channels of the residual stream that stay")
@click.option("--distil-steps", "steps", default=200, show_default=True, type=click.IntRange(0),
              help="training steps on the original's predictions afterwards")
@_training
@_text
def prune(model: str, out: Path, depth: int | None, ffn: int | None, heads: int | None, hidden: int | None,
          as_json: bool, **given: Any) -> None:
    """Remove the least important parts of MODEL (Llama-style), distil the rest from it, write OUT.

    OUT is an ordinary, really smaller checkpoint. Ctrl-C stops and writes nothing."""
    from workbench.structure import recovery, service
    from workbench.structure.shrinking import Target

    with _bar() as tell:
        made = service.prune(model, out, Target(depth, ffn, heads, hidden), _recipe(recovery, given),
                             _calibration(service, given), tell)
    _say(made, as_json)


@click.command("slice")
@click.argument("model")
@click.argument("out", type=OUT)
@click.option("--share", required=True, type=float, help="of the residual stream that is sliced away, 0 to 1")
@_text
def slice_(model: str, out: Path, share: float, as_json: bool, **given: Any) -> None:
    """Turn MODEL's residual stream into its principal components, leave out a share of them, write OUT."""
    from workbench.structure import service

    with _bar() as tell:
        made = service.slice_folder(model, out, share, _calibration(service, given), tell)
    _say(made, as_json)


@click.command("sparsify")
@click.argument("model")
@click.argument("out", type=OUT)
@click.option("--sparsity", required=True, type=float, help="share of every matrix that becomes zero")
@click.option("--steps", default=0, show_default=True, type=click.IntRange(0),
              help="fine-tuning steps with the zeros held")
@_training
@_text
def sparsify(model: str, out: Path, sparsity: float, as_json: bool, **given: Any) -> None:
    """Prune MODEL's matrices with errors made up for, fine-tune with the zeros held, write OUT.

    Run it with --set weights=sparse(method=magnitude,sparsity=...): that keeps exactly its numbers."""
    from workbench.structure import recovery, service

    with _bar() as tell:
        made = service.sparse_tune(model, out, sparsity, _recipe(recovery, given),
                                   _calibration(service, given), tell)
    _say(made, as_json)


@click.command("puzzle")
@click.argument("model")
@click.argument("out", type=OUT)
@click.option("--memory", default=1.0, show_default=True, type=click.FloatRange(0, 1),
              help="of what the layers' weights, keys and values take")
@click.option("--latency", default=1.0, show_default=True, type=click.FloatRange(0, 1),
              help="of the layers' time per token, measured on this machine")
@click.option("--context", default=1024, show_default=True, type=click.IntRange(1),
              help="tokens whose keys and values count")
@click.option("--distil-steps", "steps", default=200, show_default=True, type=click.IntRange(0),
              help="training steps on the original's predictions afterwards")
@_training
@_text
def puzzle(model: str, out: Path, memory: float, latency: float, context: int, as_json: bool,
           **given: Any) -> None:
    """Give every layer of MODEL the variant that costs the least quality within limits, distil, write OUT.

    Variants: fewer neurons, one matrix, or nothing in a block's place; the mix is chosen exactly."""
    from workbench.structure import recovery, service

    with _bar() as tell:
        made = service.puzzle(model, out, memory, latency, _recipe(recovery, given),
                              _calibration(service, given), context, tell)
    _say(made, as_json)
    if not as_json:
        kinds = "  ".join(f"{p['attention']}/{p['ffn']}" for p in made["plan"])
        console().print(f"layers (attention/neurons): {kinds}", markup=False, soft_wrap=True)
        console().print(f"sum of the scores {made['predicted_kl']:.3f}, the assembled model "
                        f"{made['assembled_kl']:.3f} before distilling; {made['latency_share']:.0%} of the "
                        "layers' measured time", markup=False, soft_wrap=True)


def _recipe(recovery: Any, given: dict[str, Any]) -> Any:
    return recovery.Recovery(steps=given["steps"], batch=given["batch"], rate=given["rate"], ce=given["ce"],
                             kl=given["kl"], square=given["square"])


def _calibration(service: Any, given: dict[str, Any]) -> Any:
    return service.Text(given["samples"], given["length"], given["text"])


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    out = console(stderr=True)
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)


def _say(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    say = console()
    share = made["parameters"] / made["parameters_before"]
    say.print(f"wrote {made['folder']}: {made['parameters'] / 1e6:.2f} M parameters, {share:.0%} of the "
              f"original, in {made['seconds']:.0f} s", markup=False, soft_wrap=True)
    say.print(f"loss on held-out text: {made['loss_before']:.3f} +- {made['loss_before_se']:.3f} before, "
              f"{made['loss_cut']:.3f} after the cut, {made['loss']:.3f} +- {made['loss_se']:.3f} now; "
              f"KL to the original {made['kl']:.3f} (nats per token, {made['judged_tokens']} tokens)",
              markup=False, soft_wrap=True)
    say.print(f"open it: --model {made['folder']}", markup=False, soft_wrap=True)
