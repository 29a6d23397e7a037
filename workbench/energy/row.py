"""A row of servers: the watts that each priority asks for over time, at full clock.

Either every server replays a recorded trace from a place of its own in it, or (for checking the policy
against published numbers, and labelled modelled) slots of servers answer requests whose rate follows the
day. What asks for power is kept apart by phase, because a clock limit touches prompts more than tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.energy.power_trace import PowerTrace
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import numpy as np

LOW, HIGH = "low", "high"


@dataclass(frozen=True)
class Demand:
    """Of all servers of one priority, per step: W that never goes away, W of prompts, W of tokens; and how
    many servers' worth of work was in each phase."""

    idle_w: float
    prompt_w: np.ndarray
    token_w: np.ndarray
    prompt_busy: np.ndarray
    token_busy: np.ndarray
    servers: int


@dataclass(frozen=True)
class Row:
    """``demand`` by priority (low, high); ``basis``: recorded (which file) or modelled."""

    demand: dict[str, Demand]
    step_s: float
    basis: str

    @property
    def servers(self) -> int:
        return sum(d.servers for d in self.demand.values())

    def watts(self) -> np.ndarray:
        """(steps,) W without any limit."""
        import numpy as np

        return np.sum([d.idle_w + d.prompt_w + d.token_w for d in self.demand.values()], axis=0)


def replay(traces: Sequence[PowerTrace], servers: int, low_share: float = 0.5, hours: float = 24.0,
           seed: int = 0) -> Row:
    """``servers`` servers, each replaying one of the traces in a loop from a random place.

    The longest traces decide the realism: a trace of a minute looped for a day has no day in it.
    Raises WorkbenchError without traces or with traces of different steps."""
    import numpy as np

    if not traces or servers < 1:
        raise WorkbenchError("a row needs at least one server and one recorded trace")
    if len({t.step_s for t in traces}) != 1:
        raise WorkbenchError("all traces of a row must have the same step; read them with one step_s")
    if not 0 <= low_share <= 1:
        raise WorkbenchError(f"the share of low priority is {low_share:g}; it must be from 0 to 1")
    rng = np.random.default_rng(seed)
    steps = max(2, round(hours * 3600 / traces[0].step_s))
    low = round(low_share * servers)
    found = {}
    for name, count in ((LOW, low), (HIGH, servers - low)):
        arrays = np.zeros((4, steps))
        idle = 0.0
        for _ in range(count):
            trace = traces[int(rng.integers(len(traces)))]
            at = (np.arange(steps) + int(rng.integers(len(trace.watts)))) % len(trace.watts)
            dynamic = np.maximum(0.0, trace.watts[at] - trace.idle_w)
            prompt = trace.prompt[at]
            busy = dynamic > 0.05 * max(1e-9, trace.peak_w - trace.idle_w)
            arrays += [dynamic * prompt, dynamic * (1 - prompt), busy * prompt, busy * (1 - prompt)]
            idle += trace.idle_w
        prompt_w, token_w, prompt_busy, token_busy = arrays
        found[name] = Demand(idle, prompt_w, token_w, prompt_busy, token_busy, count)
    return Row(found, traces[0].step_s, "recorded: " + ", ".join(sorted({t.source for t in traces})))


@dataclass(frozen=True)
class Profile:
    """What one slot (a model's share of a server) draws, as shares of its peak, and how long its phases
    take. Defaults: Patel et al., ASPLOS 2024 (POLCA): prompts peak, tokens lie lower and flat, idle is
    about a fifth."""

    server_w: float = 6500.0
    slots: int = 8
    idle: float = 0.20
    prompt: float = 1.00
    token: float = 0.66
    prompt_s: float = 1.5
    token_s: float = 20.0
    load_low: float = 0.45
    load_high: float = 0.85


def modelled(servers: int, profile: Profile | None = None, low_share: float = 0.5, hours: float = 24.0,
             step_s: float = 1.0, seed: int = 0) -> Row:
    """A row from a diurnal Poisson load: a slot that is free takes the next request after an exponential
    pause whose mean follows the hour, so that its busy share swings between the profile's loads."""
    import numpy as np

    profile = profile or Profile()
    rng = np.random.default_rng(seed)
    low = round(low_share * servers)
    found = {}
    steps = round(hours * 3600 / step_s)
    for name, count in ((LOW, low), (HIGH, servers - low)):
        prompt, token = _busy(profile, count * profile.slots, steps, step_s, rng)
        slot_w = profile.server_w / profile.slots
        found[name] = Demand(
            profile.idle * profile.server_w * count,
            prompt * slot_w * (profile.prompt - profile.idle),
            token * slot_w * (profile.token - profile.idle),
            prompt / profile.slots, token / profile.slots, count)
    return Row(found, step_s, "modelled: diurnal Poisson load, phase powers of the POLCA paper")


def _busy(p: Profile, slots: int, steps: int, step_s: float, rng: np.random.Generator
          ) -> tuple[np.ndarray, np.ndarray]:
    """(slots in the prompt phase, slots in the token phase) per step."""
    import numpy as np

    ends = steps * step_s
    now = rng.uniform(0, p.prompt_s + p.token_s, slots) - (p.prompt_s + p.token_s)
    changes = np.zeros((2, steps + 1))
    mean_s = p.prompt_s + p.token_s
    while (now < ends).any():
        hour = (now / 3600) % 24
        load = p.load_low + (p.load_high - p.load_low) * 0.5 * (1 - np.cos(2 * math.pi * (hour - 3) / 24))
        start = now + rng.exponential(mean_s * (1 / load - 1))
        first = start + rng.gamma(2.0, p.prompt_s / 2, slots)
        last = first + rng.gamma(2.0, p.token_s / 2, slots)
        for row, (a, b) in enumerate(((start, first), (first, last))):
            _add(changes[row], a / step_s, b / step_s, steps)
        now = last
    return np.cumsum(changes[0])[:steps], np.cumsum(changes[1])[:steps]


def _add(changes: np.ndarray, a: np.ndarray, b: np.ndarray, steps: int) -> None:
    """Intervals into a difference array; parts of a step are split between two entries."""
    import numpy as np

    for at, sign in ((a, 1.0), (b, -1.0)):
        at = np.clip(at, 0, steps)
        whole = np.floor(at).astype(np.int64)
        part = at - whole
        np.add.at(changes, whole, sign * (1 - part))
        np.add.at(changes, np.minimum(whole + 1, steps), sign * part)
