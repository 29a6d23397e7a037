"""Sensors that do not exist, with a truth that is known: for tests only.

``Truth`` is a power that steps; ``FakeNvml`` answers pynvml's calls as a data-centre GPU does (a counter
that moves every so often, an instant field that is a mean over part of its interval, an averaged one
that trails by a second); ``fake_rapl`` is a powercap tree whose counter wraps. All on a clock that the
test moves.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workbench import events as ev


class Truth:
    """Watts from each time on; ``joules(a, b)`` is exact."""

    def __init__(self, steps: list[tuple[float, float]]) -> None:
        self.t = [t for t, _ in steps]
        self.w = [w for _, w in steps]
        self._sum = [0.0]
        for i in range(1, len(steps)):
            self._sum.append(self._sum[-1] + self.w[i - 1] * (self.t[i] - self.t[i - 1]))

    def total(self, t: float) -> float:
        i = max(0, bisect.bisect_right(self.t, t) - 1)
        return self._sum[i] + self.w[i] * (t - self.t[i])

    def joules(self, a: float, b: float) -> float:
        return self.total(b) - self.total(a)


class FakeNvml:
    """pynvml of one GPU. ``counter_s instant_s average_s``: update periods; ``seen_s``: how much of
    its interval the instant field looks at; ``window_s``: what the averaged field averages over."""

    NVML_FI_DEV_POWER_INSTANT, NVML_FI_DEV_POWER_AVERAGE, NVML_CLOCK_SM = 186, 185, 1

    def __init__(self, truth: Truth, clock: Callable[[], float], counter_s: float = 0.02,
                 instant_s: float = 0.1, average_s: float = 0.1, seen_s: float = 0.025,
                 window_s: float = 1.0, offset_s: float = 0.0, gain: float = 1.0,
                 throttled: int = 0) -> None:
        self.truth, self.clock = truth, clock
        self.periods = {"counter": counter_s, 186: instant_s, 185: average_s}
        self.seen = {186: seen_s, 185: window_s}
        self.offset_s, self.gain, self.throttled = offset_s, gain, throttled

    def _update(self, which: Any) -> float:
        """When this value was last made."""
        period = self.periods[which]
        return math.floor((self.clock() - self.offset_s) / period) * period + self.offset_s

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return "handle"

    def nvmlDeviceGetFieldValues(self, handle: str, numbers: list[int]) -> list[Any]:
        at, span = self._update(numbers[0]), self.seen[numbers[0]]
        watts = self.gain * self.truth.joules(at - span, at) / span
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=int(1000 * watts)))]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return 1_000_000 + int(1000 * self.truth.total(self._update("counter")))

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.throttled


def fake_rapl(root: Path, name: str = "package-0", limit_uj: int = 262_143_328_850) -> Path:
    """A powercap tree with one package."""
    folder = root / "intel-rapl:0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text("0\n")
    (folder / "max_energy_range_uj").write_text(f"{limit_uj}\n")
    return folder


def run_events(spans: list[tuple[str, float, float]], prompt: int, tokens: int) -> list[ev.Event]:
    """Phases and tokens of a run with these stretches; tokens spread over what follows the prompt."""
    found: list[ev.Event] = [ev.RunStarted(prompt_tokens=prompt)]
    first = next((b for p, _, b in spans if p == "prefill"), 0.0)
    last = spans[-1][2]
    for i, (phase, a, b) in enumerate(spans):
        found.append(ev.Phase(t_s=b, phase=phase, start_s=a, end_s=b, step=i,
                              rows=prompt if phase == "prefill" else 1))
    found += [ev.Token(t_s=first + (last - first) * i / max(1, tokens - 1), index=i, id=i, text="a",
                       step=i) for i in range(tokens)]
    return sorted(found, key=lambda e: e.t_s)
