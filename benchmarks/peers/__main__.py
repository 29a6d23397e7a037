"""Peers and the native runtime on the same shape, bits and threads, interleaved.

    python -m benchmarks.peers WORK_FOLDER --out benchmarks/peers/results [--rounds 3] [--only int4]
        [--python llama_cpp=/other/venv/bin/python] [--busy]

Every engine lives in a process of its own; a round asks each of them once, in turn, and measures this
machine's read bandwidth before and after, so that drift hits all alike. Speeds are medians over rounds,
ratios medians over pairs of the same round. ``--busy`` keeps one core occupied by another process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.table import write

CANDIDATES = [(engine, bits) for bits in ("bf16", "int8", "int4")
              for engine in ("native", "native_a8", "transformers", "llama_cpp", "openvino")
              if (engine, bits) != ("native_a8", "bf16")]


class Process:
    """One engine. ``error``: why it could not start, else empty."""

    def __init__(self, python: str, asked: dict[str, Any], preload: str = "") -> None:
        env = {**os.environ, **({"LD_PRELOAD": preload} if preload else {}),
               "OMP_NUM_THREADS": str(asked["threads"]), "TOKENIZERS_PARALLELISM": "false"}
        self._child = subprocess.Popen(
            [python, "-m", "benchmarks.peers.worker", json.dumps(asked)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
            cwd=Path(__file__).parents[2])
        answer = self._read()
        self.error = answer.get("error", "" if answer.get("ready") else "it ended while loading")

    def ask(self, prompt: int, new: int) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"prompt": prompt, "new": new}) + "\n")
        self._child.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                found: dict[str, Any] = json.loads(line)
                return found
        return {"error": f"it ended with code {self._child.wait()}"}

    def close(self) -> None:
        self._child.kill()
        self._child.wait()


def bandwidth(threads: int) -> float:
    """Bytes per second of reading 512 MiB with all threads, the best of five (a ceiling)."""
    import torch

    torch.set_num_threads(threads)
    block = torch.ones(128 * 2**20 // 2, dtype=torch.int64)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        block.sum()
        best = max(best, block.numel() * 8 / (time.perf_counter() - start))
    return best


def _spin() -> None:
    while True:
        pass


@contextlib.contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """Another process that keeps one core occupied, when wanted."""
    if not wanted:
        yield
        return
    child = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    child.start()
    try:
        yield
    finally:
        child.kill()


def run(given: argparse.Namespace) -> None:
    """Load, ask, write after every round."""
    pythons = dict(p.split("=", 1) for p in given.python)
    preloads = dict(p.split("=", 1) for p in given.preload)
    chosen = [(e, b) for e, b in CANDIDATES
              if b in (given.only or [b]) and e in (given.engines or [e])]
    found: dict[str, Any] = {"shape": given.shape, "threads": given.threads, "busy": given.busy,
                             "note": given.note, "rounds": [], "preload": sorted(preloads), "failed": {},
                             "environment": environment()}
    processes: dict[str, Process] = {}
    try:
        for engine, bits in chosen:
            name = f"{engine} {bits}"
            print(f"loading {name}", file=sys.stderr, flush=True)
            one = Process(pythons.get(engine, sys.executable), {
                "engine": engine, "bits": bits, "folder": str(given.folder), "shape": given.shape,
                "threads": given.threads}, preloads.get(engine, ""))
            if one.error:
                found["failed"][name] = one.error
                one.close()
            else:
                processes[name] = one
        with neighbour(given.busy):
            for number in range(given.rounds):
                found["rounds"].append(_round(processes, given, number))
                found["summary"] = summary(found["rounds"])
                write(found, given.out, given.name)  # what a later interruption leaves
    finally:
        for one in processes.values():
            one.close()


def _round(processes: dict[str, Process], given: argparse.Namespace, number: int) -> dict[str, Any]:
    result: dict[str, Any] = {"bandwidth_before": bandwidth(given.threads), "cells": {}}
    for prompt, new in given.points:
        for name, one in processes.items():
            print(f"round {number + 1}: {name}, prompt {prompt}", file=sys.stderr, flush=True)
            answer = one.ask(prompt, new)
            if "error" in answer:
                result["cells"][f"{name}|{prompt}"] = answer
                continue
            result["cells"][f"{name}|{prompt}"] = {
                **answer, "pp": prompt / answer["prefill_s"],
                "tg": (answer["tokens"] - 1) / answer["decode_s"]}
    result["bandwidth_after"] = bandwidth(given.threads)
    return result


def summary(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per engine, bits and prompt; the native runtime's speed over the engine's, with activations in
    bfloat16 (``native_``) and rounded to int8 (``native_a8_``), as llama.cpp and OpenVINO round them."""
    keys = list(dict.fromkeys(k for r in rounds for k, c in r["cells"].items() if "tg" in c))
    rows = []
    for key in keys:
        name, _, prompt = key.partition("|")
        engine, _, bits = name.partition(" ")
        cells = [r["cells"][key] for r in rounds if "tg" in r["cells"].get(key, {})]
        row = {"engine": engine, "bits": bits, "prompt": int(prompt), "backend": cells[-1]["backend"],
               "weights": cells[-1]["weights"], "executor": cells[-1]["executor"], "note": cells[-1]["note"]}
        for what in ("pp", "tg"):
            row[what] = statistics.median(c[what] for c in cells)
            row[f"{what}_range"] = [min(c[what] for c in cells), max(c[what] for c in cells)]
            for ours in ("native", "native_a8"):
                base = f"{ours} {bits}|{prompt}"
                pairs = [r["cells"][base][what] / r["cells"][key][what] for r in rounds
                         if "tg" in r["cells"].get(key, {}) and "tg" in r["cells"].get(base, {})]
                row[f"{ours}_{what}_ratio"] = statistics.median(pairs) if pairs else None
        rows.append(row)
    return rows


def environment() -> dict[str, Any]:
    import torch

    from workbench.machine import this_machine

    machine = this_machine()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            cwd=Path(__file__).parent, check=False).stdout.strip()
    return {"cpu": machine.cpu, "cores": machine.cores, "memory_bytes": machine.memory_bytes,
            "system": machine.system, "python": platform.python_version(), "torch": torch.__version__,
            "commit": commit, "date": time.strftime("%Y-%m-%d"),
            "load_average": list(os.getloadavg())}


def _point(text: str) -> tuple[int, int]:
    prompt, _, new = text.partition(":")
    return int(prompt), int(new or 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the checkpoint and its GGUF files are made")
    parser.add_argument("--shape", default="llama-1.1b")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="bf16 int8 int4")
    parser.add_argument("--engines", nargs="*", default=[])
    parser.add_argument("--points", nargs="*", type=_point, default=[(512, 128), (2048, 32), (8192, 32)],
                        help="PROMPT:NEW, e.g. 512:128")
    parser.add_argument("--python", nargs="*", default=[], metavar="ENGINE=PYTHON")
    parser.add_argument("--preload", nargs="*", default=[], metavar="ENGINE=LIBRARY",
                        help="LD_PRELOAD of one engine's process (to hide AMX from a build that crashes)")
    parser.add_argument("--note", default="", help="one sentence about the machine, kept with the result")
    parser.add_argument("--busy", action="store_true")
    given = parser.parse_args()
    given.name = given.name or ("busy" if given.busy else "quiet")
    run(given)


if __name__ == "__main__":
    main()
