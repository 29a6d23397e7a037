"""What a decoding step costs, against the floor of reading its bytes, on the 1.1 B shape.

Variants are loaded side by side and take turns, with a reading of memory bandwidth on the same threads
before each round, so every fraction is of a floor of the same moment.

    step_s       one executor call: one row, `--context` tokens cached
    verify8_s    the same with eight rows in a chain
    token_s      from token to token through the whole runtime: sampling, text, events
    floor_s      bytes of all matrices and of the cache that a step reads, over the bandwidth
    trace        seconds, bytes and FLOPs of a step by operation

    python benchmarks/shapes.py llama-1.1b /tmp/shapes
    python benchmarks/runtime/decode_step.py /tmp/shapes/llama-1.1b [--save] [--busy]

``--busy``: only int4, with and without another process that keeps one core busy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from workbench.events import Phase, Token
from workbench.kernels.decoder import abi
from workbench.runtime import load, native_library
from workbench.settings import Settings

VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"weights": "bf16"},
    "int8": {"weights": "int8", "weights.head": True},
    "int4": {"weights": "int4", "weights.head": True},
    "int4 W4A8": {"weights": "int4", "weights.head": True, "weights.activations": "int8"},
}
_READ = 1 << 29


class Subject:
    """One loaded variant with a cache that holds ``context`` tokens."""

    def __init__(self, folder: Path, name: str, context: int, threads: int) -> None:
        self.name = name
        self.settings = Settings().with_({
            "model.source": str(folder), "telemetry.preset": "off", "limits.stop_at_eos": False,
            "compute.threads": threads, "limits.max_new_tokens": 24, **VARIANTS[name]})
        began = time.perf_counter()
        self.model = load(self.settings, lambda event: None)
        self.load_s = time.perf_counter() - began
        forward = self.model.forward
        assert forward.executor is not None, forward.module_reason
        self.executor, self.context = forward.executor, context
        self.cache = self.model.cache(self.settings, 1, context + 16)
        for part in self.cache.parts:
            for buffer in part.buffers():
                buffer.normal_()
        self.masks = forward.masks([0], self.cache.capacity)
        self.bytes = bytes_of(self.executor._plan, self.cache, context)
        self.times: dict[str, list[float]] = {"step_s": [], "verify8_s": [], "token_s": []}

    def step(self, rows: int) -> float:
        ids = torch.ones(1, rows, dtype=torch.long)
        places = torch.arange(self.context, self.context + rows)[None]
        self.cache.rewind(self.context)
        mask = self.masks.tree(self.context, range(-1, rows - 2), range(1, rows))
        began = time.perf_counter()
        self.model.forward(ids, places, mask, self.cache, rows)
        return time.perf_counter() - began

    def round(self, steps: int) -> None:
        with torch.inference_mode():
            self.step(1)
            self.times["step_s"].append(statistics.median(self.step(1) for _ in range(steps)))
            self.times["verify8_s"].append(statistics.median(self.step(8) for _ in range(steps // 2)))
        self.times["token_s"].append(self.tokens()[0])

    def tokens(self) -> tuple[float, float]:
        """Medians of (seconds from token to token, the part outside the forward)."""
        events: list[Any] = []
        self.model.generate(["a short prompt"], self.settings, events.append, lambda: False)
        inside = [e.end_s - e.start_s for e in events if isinstance(e, Phase) and e.phase == "decode"]
        gaps = [b - a for a, b in itertools.pairwise(e.t_s for e in events if isinstance(e, Token))]
        outside = [gap - part for gap, part in zip(gaps, inside, strict=True)]
        return statistics.median(gaps[1:]), statistics.median(outside[1:])

    def trace(self) -> dict[str, dict[str, float]]:
        """By operation: seconds, bytes, FLOPs and calls of one step; and what no record covers."""
        ring, found = self.executor.ring, {}
        with torch.inference_mode():
            ring.arm()
            wall = self.step(1)
            records = ring.drain()
        for r in records:
            row = found.setdefault(ring.names()[r.op], {"s": 0.0, "bytes": 0, "flops": 0, "calls": 0})
            row["s"] += (r.t1_ns - r.t0_ns) * 1e-9
            row["bytes"] += r.bytes
            row["flops"] += r.flops
            row["calls"] += 1
        covered = sum(row["s"] for row in found.values())
        return {**found, "not covered": {"s": wall - covered, "share": 1 - covered / wall}}


def bytes_of(plan: abi.Plan, cache: Any, context: int) -> dict[str, int]:
    """What one step of one row must read: matrices, and keys and values of the context."""
    names = ("q", "k", "v", "out", "gate", "up", "down")
    weights = plan.head.bytes + sum(getattr(plan.layer[i], n).bytes
                                    for i in range(plan.layers) for n in names)
    return {"weights": weights, "kv": cache.nbytes * context // cache.capacity}


def bandwidth(data: torch.Tensor) -> float:
    """Bytes per second of reading on the kernels' threads; the best of three."""
    library = abi.declare(native_library.load())
    found = []
    for _ in range(3):
        began = time.perf_counter()
        library.wb_read(data.data_ptr(), data.numel())
        found.append(data.numel() / (time.perf_counter() - began))
    return max(found)


def measure(folder: Path, names: list[str], rounds: int, context: int, threads: int) -> dict[str, Any]:
    data = torch.ones(_READ, dtype=torch.uint8)
    subjects = [Subject(folder, name, context, threads) for name in names]
    rates = []
    for _ in range(rounds):
        rates.append(bandwidth(data))
        for subject in subjects:
            subject.round(8)
    rate = statistics.median(rates)
    result: dict[str, Any] = {"read_bytes_per_s": rates, "context": context, "variants": {}}
    for s in subjects:
        floor = sum(s.bytes.values()) / rate
        row = {name: statistics.median(times) for name, times in s.times.items()}
        row |= {"floor_s": floor, "floor_fraction_step": floor / row["step_s"],
                "floor_fraction_token": floor / row["token_s"], "tok_per_s": 1 / row["token_s"],
                "verify8_over_step": row["verify8_s"] / row["step_s"], "bytes": s.bytes,
                "outside_forward_s": s.tokens()[1], "load_s": s.load_s, "trace": s.trace(),
                "rounds": s.times, "kernel": s.model.effective()["weights"].effective}
        result["variants"][s.name] = row
    base = result["variants"].get("bf16")
    for row in result["variants"].values():
        row["speed_over_bf16"] = base["token_s"] / row["token_s"] if base else None
    return result


def beside_a_busy_core(folder: Path, threads: int) -> dict[str, Any]:
    """int4 tokens per second alone and beside one spinning process, in turns."""
    subject = Subject(folder, "int4", 128, threads)
    alone, beside = [], []
    for _ in range(4):
        alone.append(1 / subject.tokens()[0])
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(0.3)
            beside.append(tokens_per_second(subject))
        finally:
            other.kill()
            other.wait()
    return {"alone_tok_per_s": alone, "beside_tok_per_s": beside,
            "kept": statistics.median(beside) / statistics.median(alone)}


def tokens_per_second(subject: Subject) -> float:
    """Over a whole run: delays by other processes are rare and long, so a median would miss them."""
    events: list[Any] = []
    subject.model.generate(["a short prompt"], subject.settings.with_({"limits.max_new_tokens": 64}),
                           events.append, lambda: False)
    times = [e.t_s for e in events if isinstance(e, Token)]
    return (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--save", action="store_true")
    a = parser.parse_args()
    result = beside_a_busy_core(a.folder, a.threads) if a.busy else measure(
        a.folder, a.variants, a.rounds, a.context, a.threads)
    from workbench.machine import this_machine

    result["environment"] = {
        "torch": torch.__version__, "python": platform.python_version(), "processor": this_machine().cpu,
        "isa": native_library.isa(), "threads": torch.get_num_threads(), "load_average": os.getloadavg()[0]}
    print(json.dumps(result, indent=2))
    if a.save:
        name = "decode_busy.json" if a.busy else "decode_step.json"
        Path(__file__).with_name(name).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
