"""Markdown from the JSON files of this folder's scripts and of ``workbench bench decoding``.

    python benchmarks/decoding/table.py results/*.json > results/README.md
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


def identity(data: dict[str, Any], name: str) -> str:
    """``identity.py``: one line per method, one column per case."""
    cases = data["cases"]
    methods = list(dict.fromkeys(m for case in cases.values() for m in case))
    ran = dict.fromkeys(o["executor"] for case in cases.values() for o in case.values() if "executor" in o)
    lines = [f"## {name}: texts equal to plain decoding's\n",
             f"{data['count']} prompts of eight kinds, {data['new']} new tokens each; {'; '.join(ran)}. "
             "Equal texts of all; where one differs, the plain target judged every token of it.\n",
             "| method | " + " | ".join(cases) + " |", "|---" * (len(cases) + 1) + "|"]
    for method in methods:
        cells = [_judged(case[method]) if method in case else "–" for case in cases.values()]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _judged(found: dict[str, Any]) -> str:
    if found["skipped"]:
        return str(found["skipped"])
    said = f"{found['same']} of {found['prompts']}"
    return said + "".join(f", {found[k]} {w}" for k, w in (("near_ties", "near-ties"), ("bugs", "bugs"))
                          if found[k])


def fallback(data: dict[str, Any], name: str) -> str:
    """``fallback.py``: what a method costs after it was given up."""
    lines = [f"## {name}: after the fallback has seen that it does not pay\n",
             f"{data['model']}, {data['new']} new tokens{_ran(data)}. {_CLOCKS[data['clock']]} Speed from "
             "the switch to the end over plain decoding's for the same tokens, new looks included; the bar "
             "is 0.97.\n",
             "| method | gave up in | x plain afterwards (median) | quartiles | x plain, whole text |",
             "|---|---|---|---|---|"]
    for method, r in data["methods"].items():
        low = "–" if r["low"] is None else f"{r['low']:.3f} to {r['high']:.3f}"
        lines.append(f"| {method} | {r['gave_up']} of {r['runs']} runs | {_n(r['ratio'], 1, 3)} | {low} | "
                     f"{r['whole']:.2f} |")
    return "\n".join(lines) + "\n"


def batches(data: dict[str, Any], name: str) -> str:
    """``batch.py``: throughput by batch, and where a method falls to plain decoding's."""
    found = data["results"]
    plain = " | ".join(f"{r['plain']['tok_s']:.0f} tok/s" for r in found.values())
    heads = [*(f"batch {b}" for b in found), "falls to plain's at", "equal texts"]
    lines = [f"## {name}: batches\n",
             f"{data['model']}, weights {data['weights']}, {data['new_tokens']} new tokens{_ran(data)}. "
             f"{_CLOCKS[data['clock']]} Throughput over plain decoding's of the same batch; every text is "
             "compared with plain decoding's.\n",
             "| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|",
             f"| plain | {plain} | | |"]
    for method in [m for m in next(iter(found.values())) if m != "plain"]:
        cells = [f"{r[method]['ratio']:.2f}" for r in found.values()]
        same = f"{sum(r[method]['same_texts'] for r in found.values())} of " \
               f"{sum(r[method]['texts'] for r in found.values())}"
        lines.append(f"| {method} | " + " | ".join([*cells, _n(data["crossover"].get(method), 1, 1), same])
                     + " |")
    return "\n".join(lines) + "\n"


def of(data: dict[str, Any], name: str) -> str | None:
    """The tables of one file, by what is in it; None for a file of another kind."""
    for key, made in (("cases", identity), ("crossover", batches), ("methods", fallback), ("skipped", table)):
        if key in data:
            return made(data, name)
    return None


def _ran(data: dict[str, Any]) -> str:
    return f", {data['executor']}" if data.get("executor") else ""


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
        made = of(json.loads(Path(name).read_text("utf-8")), Path(name).stem)
        if made is not None:
            print(made)


if __name__ == "__main__":
    main()
