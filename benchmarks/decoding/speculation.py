"""Every drafting method on every kind of prompt: tokens per forward, acceptance, tok/s against plain.

    python benchmarks/decoding/speculation.py [--weights bf16] [--temperature 0] [--repeats 3]
        [--data ../shared/data/spec-bench] [--out FILE]

Counts do not depend on the machine's load; times do: each prompt is decoded plainly and by every method
in turn, in a rotating order, and a ratio is taken within its turn. Greedy text is compared with plain's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from workbench import zoo
from workbench.events import Draft, Memory, Token
from workbench.runtime import load
from workbench.settings import Settings
from workbench.store.environment import collect

METHODS = ("plain", "draft_model", "prompt_lookup", "input_copy", "token_recycling",
           "adaptive_tables", "jacobi", "speculative_jacobi")


def prompts(data: Path | None, each: int) -> dict[str, list[str]]:
    """Kind -> texts: the bundled prompts, and Spec-Bench's where the folder is there."""
    found: dict[str, list[str]] = {}
    for p in zoo.prompts():
        found.setdefault(p.kind, []).append(p.text)
    if data is not None and data.is_dir():
        for file in sorted(data.glob("*.jsonl")):
            for line in file.read_text("utf-8").splitlines():
                row = json.loads(line)
                kind = f"spec-bench {row.get('category', 'other')}"
                texts = found.setdefault(kind, [])
                if len(texts) < each:
                    texts.append(str(row["turns"][0])[:1200])
    return found


def decode(model: Any, settings: Settings, prompt: str) -> dict[str, Any]:
    """One generation's counts and speed after the first token."""
    events: list[Any] = []
    out = model.generate([prompt], settings, events.append, lambda: False)
    tokens = [e for e in events if isinstance(e, Token)]
    drafts = [e for e in events if isinstance(e, Draft)]
    seconds = tokens[-1].t_s - tokens[0].t_s
    return {"ids": [t.id for t in tokens], "tok_per_s": (len(tokens) - 1) / seconds if seconds else 0,
            "forwards": out.forwards - 1, "new": len(tokens) - 1,
            "drafted": sum(d.drafted for d in drafts), "accepted": sum(d.accepted for d in drafts),
            "extra": max((e.draft_bytes for e in events if isinstance(e, Memory)), default=0)}


def row(runs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Summary of (method, plain) pairs."""
    ratios = [m["tok_per_s"] / p["tok_per_s"] for m, p in runs if p["tok_per_s"]]
    forwards, new = sum(m["forwards"] for m, _ in runs), sum(m["new"] for m, _ in runs)
    drafted = sum(m["drafted"] for m, _ in runs)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {"tokens_per_forward": new / max(1, forwards), "drafted": drafted,
            "acceptance": sum(m["accepted"] for m, _ in runs) / drafted if drafted else None,
            "ratio": quartiles[1], "ratio_low": quartiles[0], "ratio_high": quartiles[2],
            "same_text": sum(m["ids"] == p["ids"] for m, p in runs), "runs": len(runs),
            "extra_bytes": max(m["extra"] for m, _ in runs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--weights", default="bf16")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--each", type=int, default=4, help="Spec-Bench prompts of a kind")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("speculation.json"))
    given = parser.parse_args()
    base = Settings().with_({
        "model.source": given.model, "weights": given.weights, "telemetry.preset": "off",
        "telemetry.power": False, "limits.max_new_tokens": given.new,
        "sampling.temperature": given.temperature})
    model = load(base, lambda event: None)
    chosen = {name: base.with_({"decoding": name}) for name in given.methods}
    results: dict[str, dict[str, Any]] = {name: {} for name in given.methods}
    for kind, texts in prompts(given.data, given.each).items():
        pairs: dict[str, list[Any]] = {name: [] for name in given.methods}
        for turn in range(given.repeats):
            for text in texts:
                order = given.methods[turn % len(given.methods):] + given.methods[
                    :turn % len(given.methods)]
                done = {name: decode(model, chosen[name], text) for name in order}
                for name in given.methods:
                    pairs[name].append((done[name], done["plain"]))
        for name in given.methods:
            results[name][kind] = row(pairs[name])
        print(kind, "  ".join(f"{n} {r[kind]['tokens_per_forward']:.2f}/{r[kind]['ratio']:.2f}x"
                              for n, r in results.items()), flush=True)
    given.out.write_text(json.dumps({
        "settings": base.to_dict(), "environment": collect(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
