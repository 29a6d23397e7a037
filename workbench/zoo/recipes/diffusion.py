"""The bundled masked-diffusion model: list operations and additions, one token per item.

    python -m workbench.zoo.recipes.diffusion --work /tmp/zoo

LLaDA's objective (Nie et al. 2025, arXiv:2502.09992, section 2.2) on answers only: a mask rate t ~ U(0, 1)
per sequence, bidirectional attention, cross entropy at the masked places over t. The answer is padded
with its end to the whole canvas, which is trained too: that is how the model knows where to stop.
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
from workbench.zoo.recipes.train import rate

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

NAME = "wb-dlm"
_PAD, _EOS, _MASK = 0, 1, 2


@dataclass(frozen=True)
class DiffusionRecipe:
    """Shape and optimisation. ``start`` numbers the examples, so that others can be held out."""

    hidden: int = 112
    layers: int = 4
    heads: int = 4
    ff: int = 304
    steps: int = 7000
    batch: int = 128
    lr_matrices: float = 0.02
    lr_rest: float = 3e-3
    warmup: int = 100
    seed: int = 7
    start: int = 1_000_000

    def config(self, vocabulary: int) -> dict[str, Any]:
        """Arguments of ``transformers.LlamaConfig``. ``masked_diffusion`` is what tells our runtime."""
        from workbench.zoo.list_tasks import CANVAS

        return {"vocab_size": vocabulary, "hidden_size": self.hidden, "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads, "num_key_value_heads": self.heads,
                "intermediate_size": self.ff, "max_position_embeddings": 64, "rope_theta": 10000.0,
                "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "bos_token_id": None,
                "eos_token_id": _EOS, "pad_token_id": _PAD,
                "masked_diffusion": {"mask_token_id": _MASK, "canvas": CANVAS}}


def encode(start: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``batch`` examples from number ``start`` on: ids int64 [B, L] and which places are answer [B, L].

    The prompt is padded at its left, the answer at its right with its end."""
    from workbench.zoo.list_tasks import CANVAS, PROMPT, TASKS, VOCABULARY, example

    ids = {word: i for i, word in enumerate(VOCABULARY)}
    rows = torch.full((batch, PROMPT + CANVAS), _EOS)
    for i in range(batch):
        found = example(TASKS[(start + i) % len(TASKS)], start + i)
        prompt, answer = [ids[w] for w in found.prompt], [ids[w] for w in found.answer]
        rows[i, :PROMPT - len(prompt)] = _PAD
        rows[i, PROMPT - len(prompt):PROMPT] = torch.tensor(prompt)
        rows[i, PROMPT:PROMPT + len(answer)] = torch.tensor(answer)
    places = torch.zeros_like(rows, dtype=torch.bool)
    places[:, PROMPT:] = True
    return rows, places


def visible(rows: torch.Tensor) -> torch.Tensor:
    """Additive float mask [B, 1, L, L]: every place sees every place that is not padding."""
    mask = torch.zeros(rows.shape[0], 1, 1, rows.shape[1])
    mask.masked_fill_((rows == _PAD)[:, None, None], float("-inf"))
    return mask.expand(-1, 1, rows.shape[1], -1)


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor, places: torch.Tensor,
            generator: torch.Generator) -> torch.Tensor:
    """Mean over the batch of masked cross entropy / t / canvas."""
    t = torch.rand(len(rows), 1, generator=generator) * 0.999 + 0.001
    masked = (torch.rand(rows.shape, generator=generator) < t) & places
    noisy = torch.where(masked, _MASK, rows)
    logits = model(noisy, attention_mask=visible(rows), use_cache=False).logits
    nll = F.cross_entropy(logits.float().flatten(0, 1), rows.flatten(), reduction="none")
    weights = (masked / t).flatten() / places.sum()
    return (nll * weights).sum()


def train(recipe: DiffusionRecipe, log: Any = None, threads: int = 1) -> LlamaForCausalLM:
    """Train from scratch; ``log`` is an open text file for one JSON line each hundred steps."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from workbench.zoo.list_tasks import VOCABULARY

    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(LlamaConfig(**recipe.config(len(VOCABULARY))))
    model.set_attn_implementation("sdpa")
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    steppers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.lr_matrices, momentum=0.95, nesterov=True,
                         weight_decay=0.02),
        torch.optim.AdamW(rest, lr=recipe.lr_rest, betas=(0.9, 0.98), weight_decay=0.0)]
    generator = torch.Generator().manual_seed(recipe.seed)
    base = [[g["lr"] for g in s.param_groups] for s in steppers]
    began, losses = time.monotonic(), []
    for step in range(recipe.steps):
        factor = rate(step, recipe.steps, recipe.warmup)
        rows, places = encode(recipe.start + step * recipe.batch, recipe.batch)
        loss = loss_of(model, rows, places, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper, rates in zip(steppers, base, strict=True):
            for group, lr in zip(stepper.param_groups, rates, strict=True):
                group["lr"] = lr * factor
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if log is not None and (step + 1) % 100 == 0:
            print(json.dumps({"step": step + 1, "loss": round(sum(losses) / len(losses), 4),
                              "seconds": round(time.monotonic() - began, 1)}), file=log, flush=True)
            losses = []
    return model.eval()


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer: one item, one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from workbench.zoo.list_tasks import VOCABULARY

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, "<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>",
                            mask_token="<mask>").save_pretrained(folder)


def build(work: Path, recipe: DiffusionRecipe, threads: int = 1) -> Path:
    """Train and publish. The log stays in ``work``."""
    out = work / NAME
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.jsonl", "w", encoding="utf-8") as log:
        model = train(recipe, log, threads)
    folder = publish.MODELS / NAME
    folder.mkdir(parents=True, exist_ok=True)
    torch.nn.Module.to(model, torch.bfloat16)  # in place
    model.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "manifest.json").write_text(json.dumps(
        {"recipe": asdict(recipe), "data": "generated by workbench.zoo.list_tasks",
         "examples": recipe.steps * recipe.batch,
         "environment": publish.environment(str(threads))}, indent=1) + "\n", "utf-8")
    (folder / "training_log.jsonl").write_text(publish.thinned(out / "log.jsonl"), "utf-8")
    return folder


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m workbench.zoo.recipes.diffusion")
    parser.add_argument("--work", type=Path, default=Path("/tmp/zoo"))
    parser.add_argument("--steps", type=int, default=DiffusionRecipe.steps)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print(build(given.work, DiffusionRecipe(steps=given.steps), given.threads))


if __name__ == "__main__":
    main()
