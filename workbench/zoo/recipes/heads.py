"""The bundled target's heads, one recipe for all.

    python -m workbench.zoo.recipes.heads text --data ../shared/data --work /tmp/zoo
    python -m workbench.zoo.recipes.heads medusa --work /tmp/zoo
    python -m workbench.zoo.recipes.heads table          # accepted tokens on the bundled prompts, cards

``text`` makes what all learn from and keeps it in ``--work``: continuations of training windows by the
target itself, and of held-out documents for the gates. A head's folder gets ``head.safetensors`` (bfloat16),
``head.json`` (shape, hits on held-out text, provenance), ``training_log.jsonl`` and a model card.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench import zoo
from workbench.heads import files, measure, text, train
from workbench.heads.spec import METHODS, SPEC
from workbench.heads.target import Target
from workbench.zoo.recipes import publish
from workbench.zoo.recipes.recipe import MIX, TARGET
from workbench.zoo.recipes.train import batch, load_streams

#: Tokens of a prompt and of its continuation; prompts of the training and of the held-out text.
PROMPT, NEW, MANY, HELD = 32, 96, 3072, 192

#: What differs from the trainer's plan.
PLANS = {
    "medusa": train.Plan(steps=600), "clover": train.Plan(steps=240, batch=6),
    "eagle": train.Plan(steps=900), "dovetail": train.Plan(steps=140, batch=6),
    "hidden_transfer": train.Plan(steps=300, batch=6), "ppd": train.Plan(steps=160, batch=6),
}
#: Windows of the text that a head is trained on; the other methods take half.
WHOLE = ("medusa", "eagle")


def opened(source: str = "bundled", threads: int = 1) -> Any:
    """The bundled target in its runtime, bfloat16."""
    from workbench.runtime import load
    from workbench.settings import Settings

    return load(Settings().with_({"model.source": source, "weights": "bf16", "compute.threads": threads}),
                lambda event: None)


def windows(streams: Path, many: int, seed: int = 21) -> torch.Tensor:
    """Beginnings of training windows: int64 [many, PROMPT]."""
    recipe = replace(TARGET, batch=many, context=PROMPT - 1, data_seed=seed)
    return batch(recipe, load_streams(streams, MIX), 0)


def held_out(tokenizer: Any, many: int, seed: int = 22) -> torch.Tensor:
    """Windows of documents that neither the target nor a head was trained on: int64 [many, PROMPT]."""
    documents = [tokenizer(d.text, verbose=False)["input_ids"] for d in zoo.evaluation_text(stdlib=True)]
    documents = [d for d in documents if len(d) > PROMPT]
    r = np.random.default_rng(seed)
    rows = []
    for i in range(many):
        document = documents[i % len(documents)]
        start = int(r.integers(0, len(document) - PROMPT))
        rows.append(document[start:start + PROMPT])
    return torch.tensor(rows)


def make_text(streams: Path, work: Path, model: Any, many: int = MANY, held: int = HELD, new: int = NEW
              ) -> Path:
    """``work/heads/{train,held}.npy``: uint16 [N, PROMPT + new], made once."""
    folder = work / "heads"
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompts in (("train", lambda: windows(streams, many)),
                          ("held", lambda: held_out(model.tokenizer, held))):
        file = folder / f"{name}.npy"
        if file.is_file():
            continue
        tokens = text.continued(model.forward, prompts(), new, seed=len(name))
        np.save(file, tokens.numpy().astype(np.uint16))
    return folder


def read(folder: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / f"{name}.npy").astype(np.int64))


def states(model: Any, folder: Path, name: str, many: int = MANY) -> train.Features:
    """The target's states over ``folder/name.npy`` at the middle and at the end, computed once for all."""
    tokens, last = read(folder, name)[:many], model.shape.layers
    taps = {tap: folder / f"{name}.{len(tokens)}.{tap}.pt" for tap in (max(1, last // 2), last)}
    if not all(file.is_file() for file in taps.values()):
        found = train.features(model.forward, tokens, list(taps), train.never)
        for tap, file in taps.items():
            torch.save(found.states[tap], file)
    return train.Features(tokens, {tap: torch.load(file, mmap=True) for tap, file in taps.items()})


def float_target(source: Path) -> Target:
    """The target in float32, frozen, as training multiplies it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    return Target(model.requires_grad_(False).eval())


def build(method: str, folder: Path, out: Path, model: Any, *, plan: train.Plan | None = None,
          name: str = zoo.DEFAULT) -> Path:
    """Train, measure and publish one head to ``out``."""
    plan = plan or PLANS[method]
    target = float_target(zoo.path(name))
    spec = files.default_spec(method, target, name)
    torch.manual_seed(plan.seed)
    head = files.build(spec)
    start = _begin(head, out.parent / "eagle") if method == "dovetail" else ""
    many = MANY if method in WHOLE else MANY // 2
    learn, rest = states(model, folder, "train", many), states(model, folder, "held")
    learned, held = learn.tokens, rest.tokens
    began = time.monotonic()
    log = folder / f"{method}.jsonl"
    final = train.train(head, target, learn, plan, log=log)
    hits = measure.rank_hits(head, target, rest)
    spec = files.measured(spec, hits=hits, provenance={
        "recipe": f"python -m workbench.zoo.recipes.heads {method}", "plan": plan.to_dict(),
        "start": start, "rate": train.RATES.get(method, plan.rate), "final": final,
        "text": {"windows": len(learned), "tokens": learned.numel(), "prompt": PROMPT,
                 "sha256": hashlib.sha256(learned.numpy().astype(np.uint16).tobytes()).hexdigest()},
        "held_out": {"windows": len(held), "tokens": held.numel()},
        "baseline": baseline(learned, held, spec.steps, method in ("clover", "eagle", "dovetail")),
        "environment": publish.environment(str(torch.get_num_threads())),
        "seconds": round(time.monotonic() - began)})
    files.save(head, spec, out)
    (out / "training_log.jsonl").write_text(publish.thinned(log), "utf-8")
    (out / "README.md").write_text(card(spec, sum(p.numel() for p in head.parameters())), "utf-8")
    return out


def _begin(head: Any, eagle: Path) -> str:
    """Dovetail's head starts from the EAGLE-style head where there is one: it is that head, deeper."""
    if not (eagle / SPEC).is_file():
        return ""
    _, other = files.load(eagle, torch.device("cpu"), torch.float32)
    head.begin_as(other)
    return "from the trained eagle head's layer; the second layer as an identity"


def baseline(learned: torch.Tensor, held: torch.Tensor, steps: int, told: bool) -> list[float]:
    """Share of held-out places where a trigram of the same training text guesses the token of each step.

    A head that is ``told`` the tokens between competes with a trigram that is too; one that is not, with a
    trigram that follows its own guesses."""
    from workbench.zoo.recipes.ngram import Successors

    counted = Successors(learned.numpy())
    rows = held.numpy()
    usable = rows.shape[1] - 2 - steps
    found = []
    first, second = rows[:, 0:usable], rows[:, 1:usable + 1]
    if not told:
        first, second = second, counted.next(first, second)  # the root, guessed as the head does not see it
    for step in range(steps):
        if told:
            first, second = rows[:, 1 + step:1 + step + usable], rows[:, 2 + step:2 + step + usable]
        guess = counted.next(first, second)
        found.append(round(float((guess == rows[:, 3 + step:3 + step + usable]).mean()), 4))
        if not told:
            first, second = second, guess
    return found


def card(spec: Any, parameters: int, table: str = "") -> str:
    """The model card, from what was measured."""
    p = spec.provenance
    rows = [f"| {d + 1} | {hits[0]:.3f} | {sum(hits[:4]):.3f} | {p['baseline'][d]:.3f} | "
            f"{'reached' if hits[0] > p['baseline'][d] else '**missed**'} |"
            for d, hits in enumerate(spec.hits)]
    between = "the tokens between are the text's" if spec.method in ("clover", "eagle", "dovetail") else (
        "the tokens between are not known to the head")
    return (
        f"# {spec.method} head of `{spec.target}`\n\n{METHODS[spec.method][0].upper()}"
        f"{METHODS[spec.method][1:]}. {parameters:,} parameters in bfloat16; the "
        f"embeddings and the output head are those of `{spec.target}`. Licence of the weights:"
        " that of the repository.\n\n"
        "## Gates\n\nShare of places of held-out continuations where the guess is the target's most likely "
        f"token ({between}), and a trigram of the same training text on the same places.\n\n"
        "| step | first guess | first four | trigram | gate: above the trigram |\n|---|---|---|---|---|\n"
        + "\n".join(rows) + f"\n{table}\n## Training\n\n`{p['recipe']}`: {p['plan']['steps']} steps of "
        f"{p['plan']['batch']} windows, AdamW, rate {p['rate']}, seed {p['plan']['seed']}, drawn from "
        f"{p['text']['windows']:,} windows ({p['text']['tokens']:,} tokens) of the target's own "
        f"continuations of its training text{_started(p)}. Final loss {p['final']['loss']} nats, "
        f"{p['seconds']} s on {p['environment']['threads']} thread(s). sha256 of the text "
        f"`{p['text']['sha256'][:16]}…`, torch {p['environment']['torch']}.\n")


def _started(provenance: dict[str, Any]) -> str:
    start = provenance.get("start", "")
    return f", {start}" if start else ""


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m workbench.zoo.recipes.heads", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["text", "table", *METHODS])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/zoo"))
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.name == "table":
        from workbench.zoo.recipes import heads_table

        heads_table.write()
        return
    model = opened(threads=given.threads)
    from workbench.zoo.recipes.__main__ import prepare

    folder = make_text(prepare(given.data, given.work), given.work, model)
    if given.name != "text":
        plan = PLANS[given.name]
        plan = replace(plan, steps=given.steps) if given.steps else plan
        print(build(given.name, folder, zoo.heads() / zoo.DEFAULT / given.name, model, plan=plan))


if __name__ == "__main__":
    main()
