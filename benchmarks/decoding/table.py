"""Markdown from the JSON files of ``speculation.py`` and ``workbench bench decoding``.

    python benchmarks/decoding/table.py results/widened_bf16.json ... > results/README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_CLOCKS = {"wall": "Seconds on the wall.",
           "cpu": "Seconds of the process (one thread), because others used the machine."}


def table(data: dict[str, Any], name: str) -> str:
    """One line per method over all kinds, then the ratios by kind."""
    settings = data["settings"]
    weights = settings["weights"]["name"]
    head = f"## {name}: weights {weights}, {settings['limits']['max_new_tokens']} new tokens, greedy\n\n"
    if "parameters" in data:
        head += (f"{data['parameters'] / 1e6:.0f} M parameters, {data.get('executor', '')}. "
                 f"{_CLOCKS[data.get('clock', 'wall')]} "
                 f"{'' if data.get('complete', True) else 'Incomplete. '}\n\n")
    if data.get("note"):
        head += f"Note: {data['note']}.\n\n"
    rows = {(r["method"], r["kind"]): r for r in data["rows"]}
    methods = list(dict.fromkeys(r["method"] for r in data["rows"] if r["method"] != "plain"))
    kinds = [k for k in dict.fromkeys(r["kind"] for r in data["rows"]) if k != "all"]
    lines = ["| method | tokens per verification | target forwards per token | kept % | x plain (median) | "
             "quartiles | extra memory MiB | identical |", "|---|---|---|---|---|---|---|---|"]
    for method in methods:
        r = rows[method, "all"]
        lines.append(f"| {method} | {_n(r['length'])} | {_n(r['forwards_per_token'])} | "
                     f"{_n(r['acceptance'], 100, 0)} | {r['ratio']:.2f} | {r['ratio_low']:.2f} to "
                     f"{r['ratio_high']:.2f} | {r['extra_bytes'] / 2**20:.2f} | {_same(r)} |")
    lines += ["", "Ratio to plain (tokens per target forward) by kind of prompt:", "",
              "| method | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for method in methods:
        cells = [f"{r['ratio']:.2f} ({_n(r['per_forward'])})" if (r := rows.get((method, k))) else "–"
                 for k in kinds]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    skipped = [f"- {m} was left out: {why}" for m, why in data.get("skipped", {}).items()]
    return head + "\n".join(lines + (["", *skipped] if skipped else [])) + "\n"


def _n(value: float | None, scale: float = 1.0, digits: int = 2) -> str:
    return "–" if value is None else f"{scale * value:.{digits}f}"


def _same(row: dict[str, Any]) -> str:
    said = f"{row['same']}/{row['runs']}"
    if row["near_ties"] is None or row["bugs"] is None:
        return said + " (not promised)"
    if row["near_ties"]:
        said += f", {row['near_ties']} near-ties"
    return said + (f", {row['bugs']} bugs" if row["bugs"] else "")


def main() -> None:
    print("# Drafting methods beside plain decoding\n\nRatios are medians over pairs of generations of one "
          "turn, batch 1. Made by `table.py` from the JSON files beside it.\n")
    for name in sys.argv[1:]:
        print(table(json.loads(Path(name).read_text("utf-8")), Path(name).stem))


if __name__ == "__main__":
    main()
