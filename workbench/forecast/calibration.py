"""Learning from finished runs: the ratio of measured to forecast, kept per kind of configuration.

A ratio is learned for exactly this choice of techniques on this machine, model size and device;
where there is none yet, the machine's median over all its choices is used.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.machine import Machine, home
from workbench.shape import ModelShape

if TYPE_CHECKING:
    from workbench.settings import Settings

#: Ratios kept per key; older ones make room.
_KEEP = 24
#: Spread of log ratios believed before any run, and how many runs that belief is worth.
_PRIOR_SPREAD, _PRIOR_RUNS = 0.4, 2


@dataclass
class Calibration:
    """``ratios``: key -> metric -> measured/forecast, oldest first."""

    ratios: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def factor(self, key: str, metric: str) -> tuple[float, float, int]:
        """(factor, one-sigma spread as a factor, number of runs behind it); (1, 0, 0): unknown."""
        own = self.ratios.get(key, {}).get(metric, [])
        values = own or [v for m in self.ratios.values() for v in m.get(metric, [])]
        if not values:
            return 1.0, 0.0, 0
        logs = [math.log(v) for v in values]
        # One run says little about the spread: start from a prior that weighs as much as two runs.
        middle = statistics.median(logs)
        squares = sum((x - middle) ** 2 for x in logs) + _PRIOR_RUNS * _PRIOR_SPREAD ** 2
        spread = math.sqrt(squares / (len(logs) + _PRIOR_RUNS))
        return math.exp(middle), math.exp(max(spread, 0.05)), len(own)

    def add(self, key: str, metric: str, ratio: float) -> None:
        """A ratio outside 1/100..100 is a fault, not a lesson, and is dropped."""
        if math.isfinite(ratio) and 0.01 < ratio < 100:
            series = self.ratios.setdefault(key, {}).setdefault(metric, [])
            series.append(ratio)
            del series[:-_KEEP]


def key_of(settings: Settings, shape: ModelShape, device: str) -> str:
    """What makes two configurations comparable."""
    size = round(math.log2(max(shape.parameters, 1)))
    parts = [settings.weights.name(), settings.kv.name(), settings.tiers.name(),
             str(settings.decoding), device, f"2^{size}", f"b{settings.limits.batch}",
             f"t{settings.compute.threads}"]
    return "|".join(parts)


def path_of(machine: Machine) -> Path:
    return home() / "calibration" / f"{machine.fingerprint}.json"


def load(machine: Machine) -> Calibration:
    """Empty when there is none, or when the file is damaged."""
    try:
        data = json.loads(path_of(machine).read_text())
        return Calibration({k: {m: [float(x) for x in v] for m, v in d.items()}
                            for k, d in data.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return Calibration()


def save(machine: Machine, calibration: Calibration) -> None:
    """Atomically; a full disk costs the lesson, nothing else."""
    path = path_of(machine)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(calibration.ratios))
        aside.replace(path)


def learn(settings: Settings, shape: ModelShape, machine: Machine, metrics: dict[str, Any],
          draft_shape: ModelShape | None = None) -> None:
    """Compare a finished run with the uncorrected model and remember the ratios."""
    from workbench.forecast.memory import device_of
    from workbench.forecast.model import PROMPT_TOKENS, raw_times

    measured = {name: m.value for name, m in metrics.items() if m is not None and m.value}
    calibration = load(machine)
    key = key_of(settings, shape, device_of(settings, machine))
    emitted = measured.get("mean_accepted_length")
    prompt = prompt_tokens(measured, settings.limits.batch)
    times = raw_times(settings, shape, machine, draft_shape, prompt or PROMPT_TOKENS, emitted)
    if "tpot_s" in measured:
        calibration.add(key, "tpot_s", measured["tpot_s"] / times.tpot_s)
    if "ttft_s" in measured and prompt:
        calibration.add(key, "ttft_s", measured["ttft_s"] / times.ttft_s)
    if emitted and settings.decoding.rows() > 1:
        calibration.add(key, "accepted_length", emitted)
    save(machine, calibration)


def prompt_tokens(measured: dict[str, float], batch: int) -> int:
    """Tokens of one prompt, from the prefill's rate and its time (nearly all of the time to the first
    token); 0 when the run does not tell."""
    rate, seconds = measured.get("prefill_tok_per_s"), measured.get("ttft_s")
    return max(1, round(rate * seconds / batch)) if rate and seconds else 0
