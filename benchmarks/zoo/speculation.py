"""Greedy speculation with the bundled pair: agreement and tokens per target forward by prompt kind.

    python benchmarks/zoo/speculation.py --gamma 2 4 8

Counts, not times: they do not depend on the machine's load. Plain decoding is 1 token per forward.
Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench import zoo
from workbench.zoo import gates


def main() -> None:
    """Measure every kind of bundled prompt."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gamma", type=int, nargs="+", default=[2, 4, 8], help="drafts per chain")
    parser.add_argument("--new", type=int, default=64, help="tokens per prompt")
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("wb-14m"))
    target, draft = (AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32).eval()
                     for name in ("wb-14m", "wb-1m"))
    rows: dict[str, list[list[bool]]] = {}
    for prompt in zoo.prompts():
        ids = [tokenizer.bos_token_id, *tokenizer(prompt.text)["input_ids"]]
        sequences = gates.continuations(target, [ids], given.new)
        rows.setdefault(prompt.kind, []).append(
            gates.matches(draft, sequences, len(ids))[0].tolist())
    found = {}
    for kind, matched in rows.items():
        found[kind] = {"agreement": round(sum(map(sum, matched)) / sum(map(len, matched)), 3)}
        for gamma in given.gamma:
            mean = sum(gates.tokens_per_forward(r, gamma) for r in matched) / len(matched)
            found[kind][f"tokens_per_forward_{gamma}"] = round(mean, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
