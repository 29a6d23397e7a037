"""From a model's name to a smaller model's folder: what the command line calls."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import SettingsError
from workbench.structure import (
    calibrating,
    checkpoint,
    importance,
    judging,
    recovery,
    shrinking,
    slicing,
)
from workbench.structure.shrinking import Target

Tell = Callable[[str, int, int], None]
Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class Text:
    """Calibration text: ``samples`` windows of ``length`` tokens; ``source``: bundled or a file."""

    samples: int = 64
    length: int = 256
    source: str = "bundled"
    seed: int = 0


def prune(source: str, out: Path, target: Target, recipe: recovery.Recovery, calibration: Text | None = None,
          tell: Tell | None = None, cancelled: Cancelled | None = None) -> dict[str, Any]:
    """Width and depth pruning, then distillation from the original; an ordinary Llama folder comes out.

    Returns facts about it. Raises SettingsError, ModelError, StoreError, Cancelled; then
    nothing is written."""
    calibration, tell = calibration or Text(), tell or (lambda what, done, of: None)
    if target == Target():
        raise SettingsError("nothing to prune; give a size of --depth, --ffn, --heads or --hidden")
    checkpoint.refuse_target(out)
    began = time.monotonic()
    model, folder = checkpoint.read(source)
    tell("importance", 0, 1)
    found = importance.measure(model, _windows(folder, model, calibration), cancelled)
    kept = shrinking.choose(model.config, found, target)
    student = shrinking.shrink(model, kept)
    tokens = judging.held_out(folder, model.config)
    before, cut = judging.judge(model, tokens), judging.judge(student, tokens, model)
    losses: list[float] = []
    if recipe.steps:
        train = calibrating.windows(folder, model.config, min(recipe.steps * recipe.batch, 20_000),
                                    calibration.length, calibration.source, calibration.seed + 1)
        losses = recovery.recover(student, model, train, recipe, layers=kept.layers, cancelled=cancelled,
                                  told=lambda done, of, loss: tell(f"distilling, loss {loss:.3f}", done, of))
    after = judging.judge(student, tokens, model)
    facts = {"method": "pruned", "source": folder.name, "layers": list(kept.layers),
             "ffn": len(kept.neurons[0]), "heads": len(kept.heads[0]), "hidden": len(kept.channels),
             "distil_steps": len(losses), "recipe": dataclasses.asdict(recipe)}
    found_facts = {**facts, "parameters_before": judging.parameters(model),
                   "parameters": judging.parameters(student), **_judged(before, cut, after),
                   "seconds": time.monotonic() - began}
    checkpoint.write(student, folder, out, facts)
    return {**found_facts, "folder": str(out)}


def slice_folder(source: str, out: Path, share: float, calibration: Text | None = None,
                 tell: Tell | None = None, cancelled: Cancelled | None = None) -> dict[str, Any]:
    """SliceGPT; a folder whose layers have shortcut matrices comes out. As :func:`prune` otherwise."""
    calibration, tell = calibration or Text(), tell or (lambda what, done, of: None)
    checkpoint.refuse_target(out)
    began = time.monotonic()
    model, folder = checkpoint.read(source)
    made = slicing.slice_model(model, _windows(folder, model, calibration), share,
                               lambda done, of: tell("slicing", done, of), cancelled)
    tokens = judging.held_out(folder, model.config)
    before, after = judging.judge(model, tokens), judging.judge(made.model, tokens, model)
    facts = {"method": "sliced", "source": folder.name, "share": share, "width": made.width,
             "whole": made.whole, "least_energy": min(made.energy)}
    result = {**facts, "parameters_before": judging.parameters(model),
              "parameters": judging.parameters(made.model), **_judged(before, after, after),
              "seconds": time.monotonic() - began}
    checkpoint.write(made.model, folder, out, facts)
    return {**result, "folder": str(out)}


def sparse_tune(source: str, out: Path, sparsity: float, recipe: recovery.Recovery,
                calibration: Text | None = None, tell: Tell | None = None,
                cancelled: Cancelled | None = None) -> dict[str, Any]:
    """SparseGPT, then fine-tuning with the zeros held; a Llama folder with zeros in it comes out.

    ``weights=sparse(method=magnitude)`` at the same sparsity keeps exactly its numbers. As :func:`prune`."""
    from workbench.structure import pruning

    calibration, tell = calibration or Text(), tell or (lambda what, done, of: None)
    checkpoint.refuse_target(out)
    began = time.monotonic()
    model, folder = checkpoint.read(source)
    student, masks = pruning.prune_model(model, _windows(folder, model, calibration), sparsity,
                                         lambda done, of: tell("pruning", done, of), cancelled)
    tokens = judging.held_out(folder, model.config)
    before, cut = judging.judge(model, tokens), judging.judge(student, tokens, model)
    train = calibrating.windows(folder, model.config, max(1, min(recipe.steps * recipe.batch, 20_000)),
                                calibration.length, calibration.source, calibration.seed + 1)
    losses = recovery.recover(student, model, train, recipe, masks, cancelled=cancelled,
                              told=lambda done, of, loss: tell(f"tuning, loss {loss:.3f}", done, of))
    after = judging.judge(student, tokens, model)
    facts = {"method": "sparse", "source": folder.name, "sparsity": sparsity, "distil_steps": len(losses),
             "recipe": dataclasses.asdict(recipe)}
    result = {**facts, "parameters_before": judging.parameters(model),
              "parameters": judging.parameters(student) - sum(int((~m).sum()) for m in masks.values()),
              **_judged(before, cut, after), "seconds": time.monotonic() - began}
    checkpoint.write(student, folder, out, facts)
    return {**result, "folder": str(out)}


def puzzle(source: str, out: Path, memory: float, latency: float, recipe: recovery.Recovery,
           calibration: Text | None = None, context: int = 1024, tell: Tell | None = None,
           cancelled: Cancelled | None = None) -> dict[str, Any]:
    """The best mix of block variants within shares of the blocks' memory and measured latency, distilled.

    A folder whose layers differ comes out. As :func:`prune` otherwise."""
    from workbench.structure import puzzle as pieces

    calibration, tell = calibration or Text(), tell or (lambda what, done, of: None)
    checkpoint.refuse_target(out)
    began = time.monotonic()
    model, folder = checkpoint.read(source)
    scoring = calibrating.windows(folder, model.config, 8, calibration.length, calibration.source,
                                  calibration.seed + 2)
    found = pieces.build_library(model, _windows(folder, model, calibration), scoring, context=context,
                                 told=tell, cancelled=cancelled)
    solution = pieces.search(found, memory, latency)
    built = pieces.assemble(found, solution, scoring)
    tokens = judging.held_out(folder, model.config)
    before, cut = judging.judge(model, tokens), judging.judge(built.model, tokens, model)
    if recipe.steps:
        train = calibrating.windows(folder, model.config, min(recipe.steps * recipe.batch, 20_000),
                                    calibration.length, calibration.source, calibration.seed + 1)
        recovery.recover(built.model, model, train, recipe, cancelled=cancelled,
                         told=lambda done, of, loss: tell(f"distilling, loss {loss:.3f}", done, of))
    after = judging.judge(built.model, tokens, model)
    full = found.full()
    facts = {"method": "puzzle", "source": folder.name, "plan": built.plan, "memory": memory,
             "latency": latency, "distil_steps": recipe.steps, "predicted_kl": built.predicted,
             "assembled_kl": built.kl, "memory_share": solution.costs["bytes"] / full["bytes"],
             "latency_share": solution.costs["ms"] / full["ms"]}
    result = {**facts, "parameters_before": judging.parameters(model),
              "parameters": judging.parameters(built.model), **_judged(before, cut, after),
              "seconds": time.monotonic() - began}
    checkpoint.write(built.model, folder, out, facts)
    return {**result, "folder": str(out)}


def _windows(folder: Path, model: Any, calibration: Text) -> Any:
    return calibrating.windows(folder, model.config, calibration.samples, calibration.length,
                               calibration.source, calibration.seed)


def _judged(before: judging.Judged, cut: judging.Judged, after: judging.Judged) -> dict[str, Any]:
    return {"loss_before": before.loss, "loss_before_se": before.se, "loss_cut": cut.loss,
            "loss": after.loss, "loss_se": after.se, "kl_cut": cut.kl, "kl": after.kl,
            "judged_tokens": after.tokens}
