"""The bundled target's [PAD] embeddings for lexical unit decoding (LUD).

    python -m workbench.zoo.recipes.lud [--steps 120]

Texts are the target's own greedy continuations of windows of the bundled evaluation documents; no bundled
prompt is among them. Three embeddings are written, with a log and a card.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from workbench import zoo
from workbench.runtime.guard import Guard
from workbench.techniques.decoding import _pads
from workbench.techniques.decoding._specee_train import beginnings, own_texts
from workbench.zoo.recipes import publish
from workbench.zoo.recipes.heads import opened

_CARD = """# [PAD] embeddings of {name} for lexical unit decoding

{count} embeddings of width {hidden} (float32), used by `decoding=lud`: rows that stand behind the last token
and name the tokens after the next one. The model itself is untouched (the paper, arXiv:2405.15208, fine-tunes
it).

Made by `python -m workbench.zoo.recipes.lud`: {steps} steps of {batch} windows of the model's own greedy
text, cross entropy on lexical units (runs of tokens that the model gave at least {alpha} each). In the last
{last} steps the embeddings named {hits:.0%} of the units' later tokens right, on training text. How often
tokens taken ahead agree with one-by-one decoding is counted in every run and shown with the effective
settings. Licence: that of the repository.
"""


def build(out: Path, steps: int = _pads._STEPS, threads: int = 1) -> Path:
    """Train and write ``out``: pads.safetensors, lud.json, README.md."""
    torch.set_num_threads(threads)
    model = opened(threads=threads)
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    with torch.inference_mode():
        ids, _ = own_texts(model, beginnings(model), Guard(lambda: False), lambda done, total: None)
    pads = _pads.learn(model, ids.clone(), lambda: None, lambda done, total: None, steps,
                       lambda step, loss, hits: rows.append(
                           {"step": step, "loss": round(loss, 4), "hits": round(hits, 4)}))
    _pads.save(pads, out / _pads._FILE)
    (out / _pads._FILE).chmod(0o644)
    last = rows[-3:]
    (out / "lud.json").write_text(json.dumps({
        "target": zoo.DEFAULT, "steps": steps, "batch": _pads._BATCH, "rate": _pads._RATE,
        "alpha": _pads.ALPHA,
        "windows": len(ids), "tokens": ids.numel(), "seconds": round(time.monotonic() - began),
        "environment": publish.environment(str(threads)), "log": rows}, indent=1) + "\n", "utf-8")
    (out / "README.md").write_text(_CARD.format(
        name=zoo.DEFAULT, count=len(pads), hidden=pads.shape[1], steps=steps, batch=_pads._BATCH,
        alpha=_pads.ALPHA, last=10 * len(last), hits=sum(r["hits"] for r in last) / len(last)), "utf-8")
    return out


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m workbench.zoo.recipes.lud")
    parser.add_argument("--out", type=Path, default=zoo.heads() / zoo.DEFAULT / "lud")
    parser.add_argument("--steps", type=int, default=_pads._STEPS)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print(build(given.out, given.steps, given.threads))


if __name__ == "__main__":
    main()
