"""Accepted tokens of every bundled head on the bundled prompts, by a real run, written into the cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workbench import zoo
from workbench.heads.spec import METHODS, SPEC, WEIGHTS, HeadSpec
from workbench.zoo.recipes import heads as recipe

#: New tokens per prompt.
TOKENS = 64


def measure(methods: list[str], tokens: int = TOKENS) -> dict[str, Any]:
    """Greedy text of every bundled prompt with each method: tokens per target forward, means by kind."""
    model = recipe.opened()
    settings = model.settings.with_({"limits.max_new_tokens": tokens, "telemetry.preset": "off"})
    prompts = zoo.prompts()

    def run(text: str, decoding: Any) -> Any:
        return model.generate([text], settings.with_({"decoding": decoding}), lambda e: None, lambda: False)

    plain = {p.id: run(p.text, "plain").tokens for p in prompts}
    rows: dict[str, Any] = {}
    for method in methods:
        found: dict[str, list[tuple[int, int]]] = {}
        equal = drafted = accepted = 0
        for p in prompts:
            out = run(p.text, {"name": method, "fallback": False})
            equal += out.tokens == plain[p.id]
            drafted, accepted = drafted + out.drafted, accepted + out.accepted
            # The prompt's own forward gives the first token.
            found.setdefault(p.kind, []).append((len(out.tokens[0]) - 1, out.forwards - 1))
        every = [x for kind in found.values() for x in kind]
        rows[method] = {"mean": _ratio(every), "accepted": round(accepted / drafted, 3),
                        "same_text": f"{equal} of {len(prompts)}", "tokens": sum(t for t, _ in every),
                        "kinds": {k: _ratio(v) for k, v in found.items()}}
    return {"new_tokens": tokens, "prompts": len(prompts), "weights": "bf16", "methods": rows}


def _ratio(pairs: list[tuple[int, int]]) -> float:
    """Tokens of all texts over forwards of all texts: long texts count for more."""
    return round(sum(t for t, _ in pairs) / sum(f for _, f in pairs), 3)


def table(found: dict[str, Any], bold: str = "") -> str:
    """Markdown; the card's own method in bold."""
    rows = found["methods"]
    kinds = list(next(iter(rows.values()))["kinds"])
    lines = [f"| method | all | {' | '.join(kinds)} | drafts kept | text equal to plain |",
             "|" + "---|" * (len(kinds) + 4)]
    for name, row in rows.items():
        cells = [f"**{name}**" if name == bold else name, f"{row['mean']:.2f}",
                 *(f"{row['kinds'][k]:.2f}" for k in kinds), f"{row['accepted']:.0%}", row["same_text"]]
        lines.append(f"| {' | '.join(cells)} |")
    return ("\n## Accepted tokens\n\nTokens per forward of the target after the prompt (plain decoding: "
            f"1.00), greedy, up to {found['new_tokens']} new tokens for each of the {found['prompts']} "
            "bundled prompts, default trees, without the fallback to plain decoding.\n\n"
            + "\n".join(lines) + "\n")


def write(folder: Path | None = None) -> None:
    """Measure what is there; rewrite the cards."""
    folder = folder or zoo.heads() / zoo.DEFAULT
    methods = [m for m in METHODS if (folder / m / SPEC).is_file()]
    found = measure(methods)
    (folder / "accepted.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    cards(folder, found)


def cards(folder: Path, found: dict[str, Any]) -> None:
    """One card per head."""
    from workbench.zoo.recipes.card import parameters_of

    for method in found["methods"]:
        spec = HeadSpec.read(folder / method)
        parameters = parameters_of(folder / method, WEIGHTS)
        (folder / method / "README.md").write_text(
            recipe.card(spec, parameters, table(found, method)), "utf-8")
