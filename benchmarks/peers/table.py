"""Results as JSON and as a short table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(found: dict[str, Any], folder: Path, name: str) -> None:
    """``name.json`` with every sample, ``name.md`` to read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = markdown(found)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")


def markdown(found: dict[str, Any]) -> str:
    env, rounds = found["environment"], found["rounds"]
    reads = [r[k] / 1e9 for r in rounds for k in ("bandwidth_before", "bandwidth_after")]
    lines = [
        f"# {found['shape']}, {found['threads']} threads"
        + (", one core kept busy by another process" if found["busy"] else ""), "",
        f"{env['cpu']}, {env['cores']} cores, torch {env['torch']}, {env['date']}, commit "
        f"{env['commit']}; {len(rounds)} interleaved rounds; read bandwidth in the same run "
        f"{min(reads):.1f}-{max(reads):.1f} GB/s; load average at the start "
        f"{env['load_average'][0]:.1f}. Medians; native/peer: median ratio of pairs of one round.", "",
        "native_a8: the native runtime with activations rounded to int8, as llama.cpp and OpenVINO round "
        "them.", "",
        "| bits | engine | prompt | prefill tok/s | decode tok/s | native/peer prefill | native/peer decode "
        "| native_a8/peer prefill | native_a8/peer decode | weights |", "|---" * 10 + "|"]
    for row in sorted(found["summary"], key=lambda r: (r["prompt"], r["bits"], r["engine"])):
        lines.append(
            f"| {row['bits']} | {row['engine']} | {row['prompt']} | {row['pp']:.1f} | {row['tg']:.2f} | "
            f"{_x(row['native_pp_ratio'])} | {_x(row['native_tg_ratio'])} | "
            f"{_x(row.get('native_a8_pp_ratio'))} | {_x(row.get('native_a8_tg_ratio'))} | "
            f"{row['weights'][:70]} |")
    if found.get("note"):
        lines += ["", found["note"]]
    if found["failed"]:
        lines += ["", "Not measured:", ""]
        lines += [f"- {name}: {why}" for name, why in found["failed"].items()]
    versions = sorted({r["backend"] for r in found["summary"] if not r["engine"].startswith("native")})
    if found.get("preload"):
        lines += ["", f"AMX was hidden from {', '.join(found['preload'])}: with it this build crashes here, "
                      "so its AVX-512 kernels were measured."]
    return "\n".join([*lines, "", f"Engines: {', '.join(versions)}.", ""])


def _x(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
