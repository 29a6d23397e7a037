"""The model card: written from ``manifest.json`` and ``gates.json``, never by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HEADER = """# {name}

{what}

Ordinary transformers files: `AutoModelForCausalLM.from_pretrained(folder)`. {parameters:.2f} M
parameters, Llama architecture, width {hidden_size}, {num_hidden_layers} layers,
{num_attention_heads} heads ({num_key_value_heads} for keys and values), feed-forward
{intermediate_size}, vocabulary {vocab_size} (byte-level BPE), tied embeddings, bfloat16. Positions up
to {max_position_embeddings} are accepted; training windows were 512 tokens, so text beyond 512 tokens
is extrapolation. Licence of the weights: that of the repository.
"""

_WHAT = {
    "wb-14m": "The bundled target: small enough to travel with the repository, trained from scratch.",
    "wb-1m": "The bundled draft for `wb-14m`: same tokenizer, made to agree with it.",
}

_LIMITS = """## What it is for, and what not

It shows exactness, relative order of methods, acceptance and cost on a real trained model without a
download. It does not show the absolute speed-ups of large models, chat quality, or knowledge: it has
read little text, is often wrong, and repeats itself. Books before 1900 carry the views of their time.
It speaks English and Python.
"""

_DATA = """## Training data

Python standard library source without tests and twelve held-out modules, and its language reference
(PSF licence); 25 Project Gutenberg classics (public domain; *Frankenstein* is held out); GSM8K train
(MIT, Cobbe et al. 2021); Wikipedia articles (CC BY-SA 3.0/4.0, Wikipedia contributors) and tiny
Shakespeare (public domain); generated tasks (`workbench/zoo/recipes/tasks.py`). None of the data that
is not part of Python is in the repository. Tokens and sha256 of each packed stream:

| stream | tokens | sha256 |
|---|---|---|
"""


def write(folder: Path) -> None:
    """Write ``README.md`` of a model folder."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    file = folder / "gates.json"
    gates = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    parts = [_HEADER.format(name=folder.name, what=_WHAT[folder.name],
                            parameters=parameters_of(folder) / 1e6, **manifest["config"]),
             _gates(gates), _perplexity(gates), _speculation(gates), _tasks(gates), _LIMITS,
             _data(manifest), _training(folder, manifest), _samples(gates)]
    (folder / "README.md").write_text("\n".join(p for p in parts if p), "utf-8")


def parameters_of(folder: Path, file: str = "model.safetensors") -> int:
    """Elements in the weights file, from its header (8 bytes of length, then JSON)."""
    with open(folder / file, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for n in tensor["shape"]:
                size *= n
            total += size
    return total


def _table(head: str, rows: list[str]) -> str:
    columns = head.count("|") - 1
    return "\n".join([head, "|" + "---|" * columns, *rows]) + "\n"


def _gates(gates: dict[str, Any]) -> str:
    rows = [f"| {name} | {g['value']} | {g['kind']} {g['bound']} | "
            f"{'reached' if g['reached'] else '**missed**'} |"
            for name, g in gates.get("gates", {}).items()]
    return "## Gates\n\n" + _table("| gate | measured | bound | |", rows) if rows else ""


def _perplexity(gates: dict[str, Any]) -> str:
    rows = [f"| {domain} | {r['value']:.2f} ± {r['se']:.2f} | {r['trigram']:.1f} | "
            f"{r['trigram'] / r['value']:.1f} | {r['trigram_corpus']:.1f} | "
            f"{r['bits_per_byte']:.3f} | {r['tokens']} |"
            for domain, r in gates.get("perplexity", {}).items()]
    text = ("## Held-out perplexity\n\nPer token, windows of 512, ± standard error. The baseline is "
            "an interpolated Kneser-Ney trigram model of the windows that the target was trained on, "
            "scored on the same tokens; 'trigram, all' is one of the whole corpus, twice as much "
            "text as the target has seen. "
            "`eval:` is the text bundled in `workbench/zoo/eval`.\n\n")
    return text + _table("| text | perplexity | trigram | ratio | trigram, all | bits/byte | tokens |",
                         rows) if rows else ""


def _speculation(gates: dict[str, Any]) -> str:
    spec = gates.get("speculation")
    if not spec:
        return ""
    rows = [f"| {domain} | {r['agreement']:.3f} | {r['tokens_per_forward']:.2f} | "
            f"{r['distinct_4']:.2f} |" for domain, r in spec["domains"].items()]
    return (f"## Draft and target\n\n`{spec['draft']}` drafts for `{spec['target']}`, greedy, chains "
            f"of {spec['gamma']}: share of the target's tokens that are the draft's argmax, tokens "
            "per target forward (plain decoding = 1), distinct 4-grams of the target's text.\n\n"
            + _table("| text | agreement | tokens/forward | distinct-4 |", rows))


def _tasks(gates: dict[str, Any]) -> str:
    rows = [f"| {name} | {value:.2f} |" for name, value in gates.get("tasks", {}).items()]
    text = "## Generated tasks\n\nExact greedy answers, 20 of each kind, seeds never trained on.\n\n"
    return text + _table("| task | accuracy |", rows) if rows else ""


def _data(manifest: dict[str, Any]) -> str:
    rows = [f"| {name} | {d['tokens']:,} | `{d['sha256'][:16]}…` |"
            for name, d in manifest["data"].items()]
    return _DATA + "\n".join(rows) + "\n"


def _training(folder: Path, manifest: dict[str, Any]) -> str:
    final, environment = manifest["final"], manifest["environment"]
    notes = "".join(f"- {note}\n" for note in manifest["notes"])
    return (f"## Training\n\n`python -m workbench.zoo.recipes build {folder.name}`; recipe, seeds and "
            f"hashes in `manifest.json`, losses in `training_log.jsonl`. The last stage ended at step "
            f"{final['step']} after {final['tokens']:,} tokens with a training loss of "
            f"{final['loss']} nats per token. Python {environment['python']}, torch "
            f"{environment['torch']}, CPU, {environment['threads']} thread(s).\n\n{notes}")


def _samples(gates: dict[str, Any]) -> str:
    rows = [f"**{s['id']}**\n\n```text\n{s['prompt']}⟶{s['greedy']}\n```\n"
            for s in gates.get("samples", [])]
    return ("## Samples\n\nGreedy, up to 80 new tokens, all bundled prompts, not selected; ⟶ marks "
            "where the model continues.\n\n" + "\n".join(rows)) if rows else ""
