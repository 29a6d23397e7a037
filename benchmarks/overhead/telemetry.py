"""What default telemetry costs: tok/s with it over tok/s without, on the bundled model.

Regime: batch 1, greedy, one engine process, everything that a person's run goes through: worker,
wire, events. Pairs of runs, off and light, alternate in the order ABBA, so that drift hits both
alike; the figure is the median of the pairs' ratios with a bootstrap 95 % interval. Two clocks:

    tok_per_s      tokens after the first / the time they took (what the user sees)
    cpu_s          processor seconds of the worker per token (hardly sees other programs)

Target: the ratio of tok_per_s at least 0.97, and the capture's own meter (the share of the run that it
says the windows took) within one point of what the pairs show.

    python benchmarks/overhead/telemetry.py --pairs 12 --tokens 400
    python benchmarks/overhead/telemetry.py --preset kernels      # what the dearer presets cost
    python benchmarks/overhead/telemetry.py --save                # writes results/ beside it
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from pathlib import Path
from typing import Any

import psutil

from workbench import zoo
from workbench.engine.client import Engine, Generate
from workbench.events import KernelWindow, Token
from workbench.machine import this_machine
from workbench.settings import Settings

PROMPT = 'def read_lines(path):\n    """Return the lines of a file."""\n'


def settings(preset: str, tokens: int, threads: int) -> Settings:
    """The bundled model, generating exactly ``tokens`` tokens."""
    return Settings().with_({
        "telemetry.preset": preset, "telemetry.power": preset != "off", "compute.threads": threads,
        "limits.max_new_tokens": tokens, "limits.stop_at_eos": False})


def one(engine: Any, process: psutil.Process, chosen: Settings) -> dict[str, float]:
    """One run: tok/s after the first token, worker CPU seconds per token, kernel windows."""
    before = process.cpu_times()
    ticket = engine.submit(Generate(run_id="b", settings=chosen.to_dict(), prompts=[PROMPT]))
    events = []
    while not ticket.wait_done(0.02):
        events += engine.poll()
    ticket.wait(0)
    events += engine.poll()
    after = process.cpu_times()
    times = [e.t_s for e in events if isinstance(e, Token)]
    meter = sum(e.overhead_s for e in events if isinstance(e, KernelWindow) and e.phase != "prefill")
    used = after.user + after.system - before.user - before.system
    return {"tok_per_s": (len(times) - 1) / (times[-1] - times[0]), "cpu_s": used / len(times),
            "windows": sum(isinstance(e, KernelWindow) for e in events),
            "meter": meter / (times[-1] - times[0])}


def pairs(engine: Any, preset: str, n: int, tokens: int, threads: int
          ) -> list[tuple[dict[str, float], dict[str, float]]]:
    """(off, with telemetry) n times, in the order ABBA."""
    process = psutil.Process(engine.pid)
    plain, watched = settings("off", tokens, threads), settings(preset, tokens, threads)
    one(engine, process, watched)  # loads, and warms every path
    one(engine, process, plain)
    found = []
    for i in range(n):
        first, second = (plain, watched) if i % 2 == 0 else (watched, plain)
        a, b = one(engine, process, first), one(engine, process, second)
        found.append((a, b) if i % 2 == 0 else (b, a))
    return found


def interval(values: list[float], draws: int = 4000) -> tuple[float, float, float]:
    """(median, 2.5 %, 97.5 %) of the median by bootstrap."""
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(draws))
    return statistics.median(values), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def summary(found: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    speed = [b["tok_per_s"] / a["tok_per_s"] for a, b in found]
    work = [b["cpu_s"] / a["cpu_s"] for a, b in found]
    names = ("median", "low", "high")
    meter = statistics.median(b["meter"] for _, b in found)
    return {
        "meter_share": meter, "pairs_share": 1 - statistics.median(speed),
        "meter_less_pairs_points": 100 * (meter - 1 + statistics.median(speed)),
        "tok_per_s_ratio": dict(zip(names, interval(speed), strict=True)),
        "cpu_ratio": dict(zip(names, interval(work), strict=True)),
        "off_tok_per_s": statistics.median(a["tok_per_s"] for a, _ in found),
        "with_tok_per_s": statistics.median(b["tok_per_s"] for _, b in found),
        "windows_per_run": statistics.median(b["windows"] for _, b in found),
        "ratios": [round(r, 4) for r in speed]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="light", choices=("off", "light", "kernels", "deep"))
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with Engine.start() as engine:
        found = pairs(engine, options.preset, options.pairs, options.tokens, options.threads)
    machine = this_machine()
    result = {
        "benchmark": "telemetry overhead", "preset": options.preset, "pairs": options.pairs,
        "tokens": options.tokens, "threads": options.threads, "model": zoo.DEFAULT,
        **summary(found), "cpu": machine.cpu, "cores": machine.cores,
        "python": platform.python_version(), "load_before": round(load_before, 2),
        "load_after": round(os.getloadavg()[0], 2), "date": time.strftime("%Y-%m-%d")}
    if options.save:
        path = Path(__file__).parent / "results" / f"telemetry-{options.preset}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
