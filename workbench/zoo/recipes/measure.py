"""Measure every gate of both bundled models and write ``gates.json`` into their folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench import zoo
from workbench.zoo import gates
from workbench.zoo.recipes import corpus, tasks
from workbench.zoo.recipes.tokenizer import VOCAB
from workbench.zoo.trigram import Trigram

_SEEDS = json.loads((Path(zoo.__file__).parent / "eval" / "held_out.json").read_text())["task_seeds"]

#: Characters of held-out text per domain: about 10 000 to 15 000 tokens.
_CHARACTERS = 40_000


def held_out(data: Path) -> dict[str, list[str]]:
    """Domain -> documents that no bundled model was trained on."""
    bank = corpus.paragraphs(corpus.books(data, held_out=True))
    domains = {
        "code": [d.text for d in zoo.held_out_modules(20_000)],
        "books": corpus.books(data, held_out=True)[3:],
        "gsm": corpus.gsm(data, "test_dev"),
        "gen": tasks.documents(_SEEDS[0], 400, bank),
    }
    domains = {name: _first(documents, _CHARACTERS) for name, documents in domains.items()}
    for kind in sorted({d.kind for d in zoo.evaluation_text()}):
        domains[f"eval:{kind}"] = [d.text for d in zoo.evaluation_text(kind)]
    return domains


def measure(seen: list[np.ndarray], corpus_streams: list[np.ndarray], data: Path,
            models: list[str], say: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
    """Measure ``models`` (the target first) and write their ``gates.json``.

    Two trigram baselines: of ``seen``, the very windows that the target was trained on, which decides
    the gate; and of the whole corpus, of which the target has not seen everything.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = held_out(data)
    tokenizer = AutoTokenizer.from_pretrained(zoo.path(models[0]))
    loaded = {name: AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32).eval()
              for name in models}
    baselines = {}
    for name, streams in (("trigram", seen), ("trigram_corpus", corpus_streams)):
        trigram = Trigram(streams, VOCAB)
        baselines[name] = {
            domain: float(np.exp(gates.trigram_nats(trigram, tokenizer, documents).mean()))
            for domain, documents in texts.items()}
    found: dict[str, dict[str, Any]] = {
        name: {"perplexity": _perplexities(model, tokenizer, texts, baselines)}
        for name, model in loaded.items()}
    say(f"perplexities {json.dumps(found)}")
    target = loaded[models[0]]
    bank = [p for p in corpus.paragraphs(corpus.books(data, held_out=True)) if len(p) < 250]
    facts = found[models[0]]
    facts["tasks"] = gates.task_accuracy(target, tokenizer, bank, _SEEDS[1])
    facts["samples"] = [{"id": p.id, "prompt": p.text,
                         "greedy": gates.answer(target, tokenizer, p.text, 80)}
                        for p in zoo.prompts()]
    if len(models) > 1:
        prompts = _prompts(tokenizer, texts)
        together = gates.speculation(target, loaded[models[1]], prompts)
        for name in models:
            found[name]["speculation"] = {"draft": models[1], "target": models[0], "gamma": 4,
                                          "decoding": "greedy", "domains": together}
    for name in models:
        found[name]["gates"] = gates.verdicts(_values(found[name], is_target=name == models[0]))
        found[name]["measured_with"] = {"dtype": "float32 from bfloat16 weights",
                                        "torch": torch.__version__}
        file = zoo.path(name) / "gates.json"
        file.write_text(json.dumps(found[name], indent=1, ensure_ascii=False) + "\n", "utf-8")
    return found


def _values(facts: dict[str, Any], is_target: bool) -> dict[str, float]:
    values = {}
    if is_target:
        ratios = [row["trigram"] / row["value"] for row in facts["perplexity"].values()]
        values["trigram_ratio"] = float(np.exp(np.log(ratios).mean()))
        values["trigram_ratio_worst"] = min(ratios)
        values["list_copy_accuracy"] = facts["tasks"]["list:copy"]
    rows = list(facts.get("speculation", {}).get("domains", {}).values())
    for name in ("agreement", "tokens_per_forward", "distinct_4") if rows else ():
        values[name] = sum(row[name] for row in rows) / len(rows)
    return values


def _perplexities(model: Any, tokenizer: Any, texts: dict[str, list[str]],
                  baselines: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    rows = {}
    for domain, documents in texts.items():
        row = {key: round(value, 4) for key, value in
               asdict(gates.perplexity(model, tokenizer, documents)).items()}
        rows[domain] = {**row, **{name: round(values[domain], 4)
                                  for name, values in baselines.items()}}
    return rows


def _prompts(tokenizer: Any, texts: dict[str, list[str]], count: int = 12,
             length: int = 48) -> dict[str, list[list[int]]]:
    """Per domain up to ``count`` prompts of ``length`` tokens, from the beginnings of windows."""
    found = {}
    for domain, documents in texts.items():
        windows = [w for text in documents for w in gates.split(tokenizer, text, 256)
                   if len(w) >= length]
        stride = max(1, len(windows) // count)
        found[domain] = [w[:length] for w in windows[::stride][:count]]
    return {domain: rows for domain, rows in found.items() if rows}


def _first(documents: list[str], characters: int) -> list[str]:
    kept, total = [], 0
    for text in documents:
        if total >= characters:
            break
        kept.append(text[:characters - total])
        total += len(kept[-1])
    return kept
