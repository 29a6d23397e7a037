"""What a bundled model must reach, measured on text it was never trained on.

    python -m workbench.zoo.recipes gates --data ../shared/data

`perplexity` needs only the model and text; the trigram baseline needs the training streams, so its
numbers are measured once and committed in ``gates.json``. Agreement and tokens per forward come from
one greedy continuation of the target: while a draft's tokens equal the target's, both condition on the
same text, so the draft's argmax along the target's own continuation decides every acceptance.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.zoo.recipes import tasks

if TYPE_CHECKING:
    import numpy as np
    import torch

#: A transformers causal language model and its tokenizer; transformers' own annotations of
#: ``generate`` and of the tokenizer classes contradict each other under a type checker.
Model = Any
Tokenizer = Any

#: Gate -> (least or most, kind of bound). A missed gate is reported, never hidden.
BOUNDS = {
    "trigram_ratio": (3.0, "at least"),        # trigram's perplexity / model's, geometric mean
    "trigram_ratio_worst": (2.0, "at least"),  # the same in the worst domain
    "list_copy_accuracy": (0.8, "at least"),
    "agreement": (0.5, "at least"),            # greedy draft = target, mean over domains
    "tokens_per_forward": (1.8, "at least"),   # gamma = 4, mean over domains
    "distinct_4": (0.3, "at least"),           # of greedy text, mean over domains
}


@dataclass(frozen=True)
class Perplexity:
    """exp(mean nats per token), with the standard error of the mean carried through the exponent."""

    value: float
    se: float
    tokens: int
    bits_per_byte: float


def perplexity(model: Model, tokenizer: Tokenizer, texts: list[str],
               context: int = 512, skip: int = 2) -> Perplexity:
    """Perplexity over ``texts``, each after bos in windows of ``context`` tokens without overlap.

    The first ``skip`` - 1 tokens of a window are not scored, so that a trigram model can be scored
    on exactly the same tokens.
    """
    windows = [w for text in texts for w in split(tokenizer, text, context)]
    nats = [n for w in windows for n in token_nats(model, w)[skip - 1:].tolist()]
    return summary(nats, sum(len(text.encode()) for text in texts))


def summary(nats: list[float], n_bytes: int) -> Perplexity:
    """nats of each token -> Perplexity."""
    import math
    import statistics

    mean = statistics.fmean(nats)
    se = statistics.stdev(nats) / math.sqrt(len(nats))
    value = math.exp(mean)
    return Perplexity(value, value * se, len(nats), sum(nats) / math.log(2) / n_bytes)


def split(tokenizer: Tokenizer, text: str, context: int = 512) -> list[list[int]]:
    """bos + tokens in windows of at most ``context``; a tail under 8 tokens is dropped."""
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    windows = [ids[i:i + context] for i in range(0, len(ids), context)]
    return [w for w in windows if len(w) >= 8]


def token_nats(model: Model, window: list[int]) -> torch.Tensor:
    """window [T] -> -log p of window[1:], float32 [T-1]."""
    import torch

    tokens = torch.tensor([window])
    with torch.inference_mode():
        scores = model(tokens).logits[0, :-1].float().log_softmax(-1)
    return -scores.gather(1, tokens[0, 1:, None])[:, 0]


def continuations(model: Model, prompts: list[list[int]], new: int) -> torch.Tensor:
    """Greedy continuations of prompts of one length: int64 [B, T + new]; eos does not stop them."""
    import torch

    tokens = torch.tensor(prompts)
    with torch.inference_mode():
        return model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False,
                              max_new_tokens=new, eos_token_id=-1)


def matches(draft: Model, sequences: torch.Tensor, prompt: int) -> torch.Tensor:
    """Whether the draft's argmax is the target's next token: bool [B, new]."""
    import torch

    with torch.inference_mode():
        chosen = draft(sequences[:, :-1]).logits.argmax(-1)
    return (chosen == sequences[:, 1:])[:, prompt - 1:]


def tokens_per_forward(row: Iterable[bool], gamma: int = 4) -> float:
    """Mean tokens per target forward of greedy speculation with chains of ``gamma`` drafts."""
    row, at, forwards = list(row), 0, 0
    while at < len(row):
        accepted = 0
        while accepted < gamma and at + accepted < len(row) and row[at + accepted]:
            accepted += 1
        at += accepted + 1
        forwards += 1
    return len(row) / forwards


def distinct(tokens: list[int], n: int = 4) -> float:
    """Different n-grams / n-grams: 1 without repetition, near 0 in a loop."""
    grams = list(zip(*(tokens[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams)


def answer(model: Model, tokenizer: Tokenizer, prompt: str,
           new: int = 64) -> str:
    """The greedy answer to a prompt, up to eos."""
    import torch

    ids = torch.tensor([[tokenizer.bos_token_id,
                         *tokenizer(prompt, add_special_tokens=False)["input_ids"]]])
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                             max_new_tokens=new)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


def task_accuracy(model: Model, tokenizer: Tokenizer, bank: list[str],
                  seed: int, per_kind: int = 20) -> dict[str, float]:
    """Exact greedy answers by kind of task: each list operation, arithmetic, copy-edit."""
    r = random.Random(seed)
    wanted: dict[str, list[str]] = {}
    makers = [tasks.lists, tasks.arithmetic, lambda r: tasks.copy_edit(r, bank)]
    while len(wanted) < 10 or min(map(len, wanted.values())) < per_kind:
        for make in makers:
            document = make(r)
            wanted.setdefault(kind_of(document), []).append(document)
    scores = {}
    for kind, documents in sorted(wanted.items()):
        right = 0
        for document in documents[:per_kind]:
            prompt, expected = tasks.split(document)
            room = len(tokenizer(expected, add_special_tokens=False)["input_ids"]) + 4
            right += answer(model, tokenizer, prompt, room).strip() == expected.strip()
        scores[kind] = right / per_kind
    return scores


def kind_of(document: str) -> str:
    """A task's kind: ``arithmetic``, ``copy-edit`` or ``list:<operation>``."""
    if document.startswith("Compute"):
        return "arithmetic"
    if document.startswith("User: Repeat"):
        return "copy-edit"
    return "list:" + document.split()[1]


def speculation(target: Model, draft: Model,
                prompts: dict[str, list[list[int]]], new: int = 96,
                gamma: int = 4) -> dict[str, dict[str, float]]:
    """Per domain: greedy agreement, tokens per target forward, distinct-4 of the target's text."""
    found = {}
    for domain, ids in prompts.items():
        length = len(ids[0])
        sequences = continuations(target, ids, new)
        agreed = matches(draft, sequences, length)
        rows = agreed.tolist()
        texts = sequences[:, length:].tolist()
        found[domain] = {
            "agreement": round(agreed.float().mean().item(), 4),
            "tokens_per_forward": round(sum(tokens_per_forward(r, gamma) for r in rows)
                                        / len(rows), 3),
            "distinct_4": round(sum(map(distinct, texts)) / len(texts), 3),
            "tokens": agreed.numel()}
    return found


def verdicts(values: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Gate -> value, bound and whether it is reached."""
    return {name: {"value": round(values[name], 4), "bound": bound, "kind": kind,
                   "reached": values[name] >= bound}
            for name, (bound, kind) in BOUNDS.items() if name in values}


def trigram_nats(trigram: Any, tokenizer: Tokenizer, texts: list[str],
                 context: int = 512) -> np.ndarray:
    """The trigram's nats on exactly the tokens that `perplexity` scores."""
    import numpy as np

    return np.concatenate([trigram.nats(np.array(w)) for text in texts
                           for w in split(tokenizer, text, context)])
