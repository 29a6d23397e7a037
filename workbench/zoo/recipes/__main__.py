"""Command line of the recipes; see ``workbench.zoo.recipes``.

    python -m workbench.zoo.recipes build wb-14m --data ../shared/data --work /tmp/zoo
    python -m workbench.zoo.recipes build wb-1m --data ../shared/data --work /tmp/zoo
    python -m workbench.zoo.recipes gates --data ../shared/data --work /tmp/zoo

``--work`` keeps the packed tokens and the checkpoints; a second call continues where one stopped.
``--steps`` shortens a run, which changes its schedule, so the manifest records it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.zoo.recipes import card, corpus, distill, measure, publish, tokenizer, train
from workbench.zoo.recipes.recipe import DRAFT, MIX, TARGET, Recipe


def prepare(data: Path, work: Path) -> Path:
    """Tokenizer and packed streams in ``work/streams``; nothing is done twice."""
    streams = work / "streams"
    if (streams / "done").is_file():
        return streams
    streams.mkdir(parents=True, exist_ok=True)
    domains = corpus.build(data)
    trained = tokenizer.train(tokenizer.sample(domains))
    tokenizer.save(trained, streams)
    for name, documents in domains.items():
        np.save(streams / f"{name}.npy", tokenizer.pack(trained, documents))
    (streams / "done").touch()
    return streams


def build_target(streams: Path, work: Path, recipe: Recipe, threads: int, notes: list[str]) -> None:
    """Train and publish the target."""
    loaded = train.load_streams(streams, recipe.mix)
    out = work / recipe.name
    model = train.train(recipe, loaded, out, threads=threads)
    publish.publish(model, streams, publish.MODELS / recipe.name,
                    manifest(recipe.to_dict(), recipe, loaded, notes, out / "log.jsonl"),
                    out / "log.jsonl")


def build_draft(streams: Path, work: Path, first: Recipe, second: Recipe, threads: int,
                notes: list[str]) -> None:
    """Train the draft on the corpus, then distil it from the published target, and publish it."""
    from transformers import AutoModelForCausalLM

    loaded = train.load_streams(streams, first.mix)
    start = train.train(first, loaded, work / "wb-1m-ce", threads=threads).state_dict()
    target = AutoModelForCausalLM.from_pretrained(publish.MODELS / TARGET.name,
                                                  dtype=torch.float32)
    out = work / "wb-1m"
    model = distill.distill(target, start, streams, out, second, threads)
    stages = {"cross_entropy": first.to_dict(), "distillation": second.to_dict(),
              "teacher": TARGET.name}
    loaded = {**loaded, "target": np.load(out / "target.npy", mmap_mode="r")}
    publish.publish(model, streams, publish.MODELS / "wb-1m",
                    manifest(stages, first, loaded, notes, out / "log.jsonl"), out / "log.jsonl")
    (publish.MODELS / "wb-1m" / "training_log_cross_entropy.jsonl").write_text(
        publish.thinned(work / "wb-1m-ce" / "log.jsonl"), "utf-8")


def manifest(recipe: dict[str, Any], shape: Recipe, streams: dict[str, np.ndarray],
             notes: list[str], log: Path) -> dict[str, Any]:
    """Everything that decides the weights, and what happened on the way."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return {"recipe": recipe, "config": shape.config(),
            "final": rows[-1], "data": publish.data_facts(streams), "notes": notes,
            "environment": publish.environment(
                ", ".join(str(t) for t in sorted({row["threads"] for row in rows})))}


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m workbench.zoo.recipes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["build", "gates", "cards"])
    parser.add_argument("name", nargs="?", choices=[TARGET.name, DRAFT.name])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/zoo"))
    parser.add_argument("--steps", type=int, help="steps of the (last) stage instead of the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--note", action="append", default=[], help="a line for the manifest")
    given = parser.parse_args()
    _ACTIONS[given.action](given)


def _build(given: argparse.Namespace) -> None:
    streams = prepare(given.data, given.work)
    if given.name == DRAFT.name:
        second = replace(distill.DISTILLED, steps=given.steps or distill.DISTILLED.steps)
        build_draft(streams, given.work, DRAFT, second, given.threads, given.note)
    else:
        recipe = replace(TARGET, steps=given.steps or TARGET.steps)
        build_target(streams, given.work, recipe, given.threads, given.note)


def _gates(given: argparse.Namespace) -> None:
    streams = prepare(given.data, given.work)
    torch.set_num_threads(given.threads)
    loaded = train.load_streams(streams, MIX)
    seen = [row for step in range(TARGET.steps)
            for row in train.batch(TARGET, loaded, step).numpy()]
    measure.measure(seen, list(loaded.values()), given.data, [TARGET.name, DRAFT.name])
    _cards(given)


def _cards(given: argparse.Namespace) -> None:
    for name in (TARGET.name, DRAFT.name):
        card.write(publish.MODELS / name)


_ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "build": _build, "gates": _gates, "cards": _cards}

if __name__ == "__main__":
    main()
