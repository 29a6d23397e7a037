"""dParallel: the bundled masked-diffusion model learns to be certain of what it already gets right.

    python -m workbench.zoo.recipes.dparallel --work /tmp/zoo

Certainty-forcing distillation, Chen et al. 2025, arXiv:2509.26488, sections 3.1 and 3.2 and the released
script's losses: on the model's own answers from slow decoding, blocks before a random one are given, those
behind it masked, and inside it half of the places at random, then the other half:

    loss = CE + CE' + beta (H + H')

with H the mean entropy of softmax(logits / T) over the masked places that are predicted right already.
beta = 0 is plain fine-tuning on own samples, the control that tells how much comes from that alone. All
weights are trained (the paper trains adapters: its models are large).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from workbench.zoo.recipes import publish
from workbench.zoo.recipes.diffusion import _MASK, _PAD, encode, visible
from workbench.zoo.recipes.train import rate

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

NAME, BASE = "wb-dlm-dparallel", "wb-dlm"


@dataclass(frozen=True)
class Certainty:
    """``start`` numbers the training examples, as in ``workbench.zoo.recipes.diffusion``; ``block`` places of
    the canvas are learnt at a time; a share of ``ratio`` +- ``spread`` of them is masked first.
    ``determined``: only tasks with one right answer; where several are right, certainty is a lie."""

    samples: int = 8192
    steps: int = 600
    batch: int = 64
    block: int = 12
    ratio: float = 0.5
    spread: float = 0.5
    determined: bool = True
    beta: float = 2.0
    temperature: float = 0.5
    lr: float = 3e-4
    warmup: int = 30
    seed: int = 11
    start: int = 4_000_000


def own_answers(model: LlamaForCausalLM, recipe: Certainty, batch: int = 256
                ) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows int64 [samples, L] whose canvases the model filled itself, the surest place at every step, and
    which places are canvas, bool [samples, L]."""
    from workbench.zoo.list_tasks import DETERMINED, TASKS

    rows, places = [], []
    with torch.inference_mode():
        for first in range(0, recipe.samples, batch):
            given, answer = encode(recipe.start + first, min(batch, recipe.samples - first))
            if recipe.determined:
                kept = [TASKS[(recipe.start + first + i) % len(TASKS)] in DETERMINED
                        for i in range(len(given))]
                given, answer = given[kept], answer[kept]
            rows.append(slowly(model, given.masked_fill(answer, _MASK)))
            places.append(answer)
    return torch.cat(rows).clone(), torch.cat(places)


def slowly(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Fill all masked places, one per row and forward: static decoding of a batch."""
    while bool((rows == _MASK).any()):
        logits = model(rows, attention_mask=visible(rows), use_cache=False).logits.float()
        logits[..., _MASK] = logits[..., _PAD] = float("-inf")
        confidence, tokens = logits.softmax(-1).max(-1)
        confidence.masked_fill_(rows != _MASK, -1.0)
        best = confidence.argmax(-1, keepdim=True)
        rows = rows.scatter(1, best, tokens.gather(1, best))
    return rows


def halves(places: torch.Tensor, recipe: Certainty, dice: torch.Generator
           ) -> tuple[torch.Tensor, torch.Tensor]:
    """Which places are masked in the two forwards, bool [B, L] each: those behind a random block in both, and
    a random part of the block in the first, the rest of it in the second."""
    canvas = int(places[0].sum())
    blocks = -(-canvas // recipe.block)
    chosen = torch.randint(blocks, (len(places), 1), generator=dice)
    number = (places.cumsum(1) - 1) // recipe.block
    inside, behind = places & (number == chosen), places & (number > chosen)
    share = recipe.ratio + recipe.spread * (2 * torch.rand(len(places), 1, generator=dice) - 1)
    part = torch.rand(places.shape, generator=dice) < share
    return behind | (inside & part), behind | (inside & ~part)


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor, masked: torch.Tensor, recipe: Certainty
            ) -> tuple[torch.Tensor, torch.Tensor]:
    """(cross entropy, entropy of what is right already), means over the masked places."""
    noisy = torch.where(masked, _MASK, rows)
    logits = model(noisy, attention_mask=visible(rows), use_cache=False).logits.float()[masked]
    if not len(logits):
        return logits.sum(), logits.sum()
    answer = rows[masked]
    right = logits.detach().argmax(-1) == answer
    narrow = (logits[right] / recipe.temperature).log_softmax(-1)
    entropy = -(narrow.exp() * narrow).sum(-1)
    return F.cross_entropy(logits, answer), entropy.mean() if len(entropy) else logits.sum() * 0.0


def train(recipe: Certainty, log: Any = None, threads: int = 1) -> LlamaForCausalLM:
    """From the bundled model; ``log`` is an open text file for a JSON line every twenty steps."""
    from workbench.diffusion.model import open_model

    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    model: LlamaForCausalLM = open_model(BASE).model
    rows, places = own_answers(model, recipe)
    model.train()
    dice = torch.Generator().manual_seed(recipe.seed)
    stepper = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0)
    began, seen = time.monotonic(), []
    for step in range(recipe.steps):
        chosen = torch.randint(len(rows), (recipe.batch,), generator=dice)
        total = torch.zeros(())
        for masked in halves(places[chosen], recipe, dice):
            ce, entropy = loss_of(model, rows[chosen], masked, recipe)
            total = total + ce + recipe.beta * entropy
            seen.append((ce.item(), entropy.item()))
        stepper.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        stepper.param_groups[0]["lr"] = recipe.lr * rate(step, recipe.steps, recipe.warmup)
        stepper.step()
        if log is not None and ((step + 1) % 20 == 0 or step + 1 == recipe.steps):
            ce, entropy = (sum(v) / len(seen) for v in zip(*seen, strict=True))
            print(json.dumps({"step": step + 1, "ce": round(ce, 4), "entropy": round(entropy, 4),
                              "seconds": round(time.monotonic() - began, 1)}), file=log, flush=True)
            seen = []
    return model.eval()


def build(work: Path, recipe: Certainty, out: Path, threads: int = 1, traced: int = 400) -> Path:
    """Train and write a model folder to ``out``: weights, tokenizer, manifest, log, a filter of its own (for
    learn2pd, from ``traced`` examples)."""
    from safetensors.torch import save_file

    from workbench.diffusion import filter as learnt
    from workbench.diffusion.model import open_model
    from workbench.zoo.recipes.diffusion import write_tokenizer

    work.mkdir(parents=True, exist_ok=True)
    journal = work / f"{NAME}.jsonl"
    with open(journal, "w", encoding="utf-8") as log:
        model = train(recipe, log, threads)
    out.mkdir(parents=True, exist_ok=True)
    torch.nn.Module.to(model, torch.bfloat16)  # in place
    model.save_pretrained(out)
    write_tokenizer(out)
    inputs, labels = learnt.traces(open_model(out), traced, 500_000)
    save_file({k: v.contiguous() for k, v in learnt.train(inputs, labels).state_dict().items()},
              out / "learn2pd.safetensors")
    (out / "manifest.json").write_text(json.dumps(
        {"recipe": asdict(recipe), "base": BASE, "data": "its base's own answers to tasks generated by "
         "workbench.zoo.list_tasks", "environment": publish.environment(str(threads))}, indent=1) + "\n",
        "utf-8")
    (out / "training_log.jsonl").write_text(publish.thinned(journal), "utf-8")
    return out


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m workbench.zoo.recipes.dparallel")
    parser.add_argument("--work", type=Path, default=Path("/tmp/zoo"))
    parser.add_argument("--out", type=Path, default=publish.MODELS / NAME)
    parser.add_argument("--threads", type=int, default=1)
    for name in ("steps", "samples", "block"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Certainty, name))
    for name in ("beta", "lr", "ratio", "spread", "temperature"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Certainty, name))
    parser.add_argument("--all-tasks", action="store_false", dest="determined",
                        help="also tasks with several right answers")
    given = vars(parser.parse_args())
    work, out, threads = (given.pop(n) for n in ("work", "out", "threads"))
    print(build(work, Certainty(**given), out, threads))


if __name__ == "__main__":
    main()
