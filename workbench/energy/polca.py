"""How many servers fit on a row's power: oversubscription with clock limits by priority (POLCA).

Patel et al. 2023, arXiv:2308.12908 (ASPLOS 2024): inference rows leave a fifth of their power unused, so
more servers can share it, if the rare peaks are cut. Above T1 the low priority runs slower, above T2 lower
still and then the high priority a little; a limit acts only after a delay (out of band, about 40 s), so T2
must leave room for what the power can rise meanwhile; above the row's power a hardware brake stops nearly
everything, which is what must not happen.

    dynamic power at clock f = compute share x f V(f)^2 + the rest,  V = 0.6 + 0.4 f   (f: share of full)
    time at clock f = 1 + sensitivity x (1 / f - 1)

A slowed request takes longer by its factor; that it also delays the next one is left out, which holds
while the slowdown is a few per cent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.energy.row import HIGH, LOW, Row
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Response:
    """What a clock does. Shares of dynamic power that follow the clock, and how much time does.

    Defaults give the paper's 20 % less peak power for at most 7 % of performance at 1110 of 1410 MHz, with
    a tenth of a request in its prompt."""

    prompt_compute: float = 0.75
    token_compute: float = 0.35
    prompt_time: float = 1.0
    token_time: float = 0.17

    def power(self, clock: float, prompt: bool) -> float:
        """Share of dynamic power left at ``clock`` (share of the full one)."""
        compute = self.prompt_compute if prompt else self.token_compute
        volts = 0.6 + 0.4 * clock
        return compute * clock * volts * volts + 1 - compute

    def slower(self, clock: float, prompt: bool) -> float:
        """Relative increase of time at ``clock``."""
        return (self.prompt_time if prompt else self.token_time) * (1 / clock - 1)


@dataclass(frozen=True)
class Policy:
    """Thresholds as shares of the row's power, clocks as shares of the full clock (A100: 1410 MHz)."""

    t1: float = 0.80
    t2: float = 0.89
    hysteresis: float = 0.05
    delay_s: float = 40.0
    low_1: float = 1275 / 1410
    low_2: float = 1110 / 1410
    high_2: float = 1305 / 1410
    brake: float = 288 / 1410
    brake_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.t1 <= self.t2 <= 1:
            raise WorkbenchError(f"thresholds must rise and stay below the row's power: T1 {self.t1:g}, T2 "
                                 f"{self.t2:g}")
        if not 0 <= self.hysteresis < self.t1 or self.delay_s < 0:
            raise WorkbenchError("hysteresis must be smaller than T1, and the delay not negative")
        for name in ("low_1", "low_2", "high_2", "brake"):
            if not 0 < getattr(self, name) <= 1:
                raise WorkbenchError(f"{name}={getattr(self, name):g} is not a share of the full clock")

    def clocks(self, level: int) -> tuple[float, float]:
        """(low, high) priority's clock at level 0 (free), 1 (above T1), 2 (above T2), 3 (still above)."""
        return ((1.0, 1.0), (self.low_1, 1.0), (self.low_2, 1.0), (self.low_2, self.high_2))[level]


@dataclass(frozen=True)
class Outcome:
    """One simulated row. Slowdowns are relative increases of time: mean over all work, and of the hundredth
    of 20-second windows that was hit most. ``basis``: recorded or modelled demand."""

    servers: int
    extra: float
    provisioned_w: float
    peak_w: float
    peak_uncapped_w: float
    brakes: int
    low_slowdown: float
    high_slowdown: float
    low_p99: float
    high_p99: float
    capped_share: float
    energy_j: float
    commands: int
    basis: str
    watts: Sequence[float] = field(default=(), compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k != "watts"}


@dataclass
class _Controller:
    """The level that acts now, and the one that was commanded and acts later."""

    policy: Policy
    level: int = 0
    commanded: int = 0
    acts_at_s: float = math.inf
    commands: int = 0

    def see(self, share: float, now_s: float) -> None:
        """One reading of the row's power as a share of what is provisioned."""
        if now_s >= self.acts_at_s:
            self.level, self.acts_at_s = self.commanded, math.inf
        if self.acts_at_s != math.inf:
            return  # what was commanded must act first: no two changes within the delay
        wanted = self._wanted(share)
        if wanted != self.level:
            self.commanded, self.acts_at_s = wanted, now_s + self.policy.delay_s
            self.commands += 1

    def _wanted(self, share: float) -> int:
        """The level for this reading: up at once by need, down one by one below a threshold less the
        hysteresis."""
        p, level = self.policy, self.level
        if share > p.t2:
            return min(3, max(2, level + 1))
        if level >= 2:
            return level if share >= p.t2 - p.hysteresis else level - 1
        if share > p.t1:
            return 1
        return level if share >= p.t1 - p.hysteresis else 0


def simulate(row: Row, provisioned_w: float, policy: Policy | None = None,
             response: Response | None = None, extra: float = 0.0, capping: bool = True) -> Outcome:
    """Run the row against its power, step by step. ``extra``: servers beyond what was planned, for the
    label. ``capping`` False: only the hardware brake acts."""
    import numpy as np

    if provisioned_w <= 0:
        raise WorkbenchError("the row's power must be more than nothing")
    policy, response = policy or Policy(), response or Response()
    low, high = row.demand[LOW], row.demand[HIGH]
    idle = low.idle_w + high.idle_w
    levels = [*(policy.clocks(i) for i in range(4)), (policy.brake, policy.brake)]
    # Dynamic power per level, per step: the loop below then only looks numbers up.
    power = np.stack([np.sum([d.prompt_w * response.power(c, True) + d.token_w * response.power(c, False)
                              for d, c in zip((low, high), clocks, strict=True)], axis=0)
                      for clocks in levels])
    watts, used, brakes, commands = _run(power + idle, provisioned_w, policy, row.step_s, capping)
    slow = {}
    for name, d, i in ((LOW, low, 0), (HIGH, high, 1)):
        clocks = np.array([c[i] for c in levels])[used]
        slow[name] = _slowdown(d.prompt_busy, d.token_busy, clocks, response, row.step_s)
    return Outcome(
        row.servers, extra, provisioned_w, float(watts.max()), float(power[0].max() + idle), brakes,
        slow[LOW][0], slow[HIGH][0], slow[LOW][1], slow[HIGH][1], float((used > 0).mean()),
        float(watts.sum() * row.step_s), commands, row.basis, watts.tolist())


def _run(power: np.ndarray, provisioned_w: float, policy: Policy, step_s: float, capping: bool
         ) -> tuple[np.ndarray, np.ndarray, int, int]:
    """(W per step, level per step with 4 the brake, brakes, commands)."""
    import numpy as np

    control = _Controller(policy)
    rows = power.tolist()
    steps = power.shape[1]
    watts, used = np.empty(steps), np.empty(steps, dtype=np.int64)
    brakes, braked_until = 0, -math.inf
    for i in range(steps):
        now = i * step_s
        level = 4 if now < braked_until else control.level
        w = rows[level][i]
        watts[i], used[i] = w, level
        if w > provisioned_w and now >= braked_until:
            brakes, braked_until = brakes + 1, now + step_s + policy.brake_s
        if capping:
            control.see(w / provisioned_w, now)
    return watts, used, brakes, control.commands


def _slowdown(prompt: np.ndarray, token: np.ndarray, clocks: np.ndarray, response: Response,
              step_s: float) -> tuple[float, float]:
    """(mean, 99th percentile over windows of 20 s) of the relative increase of time."""
    import numpy as np

    each = np.zeros(len(clocks))
    for c in np.unique(clocks):
        at = clocks == c
        each[at] = (prompt[at] * response.slower(float(c), True)
                    + token[at] * response.slower(float(c), False))
    busy = prompt + token
    if busy.sum() <= 0:
        return 0.0, 0.0
    size = max(1, round(20 / step_s))
    edges = np.arange(0, len(each), size)
    hit, work = np.add.reduceat(each, edges), np.add.reduceat(busy, edges)
    windows = hit[work > 0] / work[work > 0]
    return float(each.sum() / busy.sum()), float(np.quantile(windows, 0.99))


def largest_rise(watts: np.ndarray, provisioned_w: float, delay_s: float, step_s: float) -> float:
    """The most that the row's power rises within the delay, as a share of what is provisioned."""
    import numpy as np

    steps = min(max(1, round(delay_s / step_s)), len(watts) - 1)
    # The least in the window of steps + 1 readings that ends at each one, by doubling.
    least, span = np.concatenate([np.full(steps, np.inf), watts]), 1
    while span * 2 <= steps + 1:
        least = np.minimum(least[span:], least[:-span])
        span *= 2
    rest = steps + 1 - span
    if rest:
        least = np.minimum(least[rest:], least[:-rest])
    return float((watts - least).max()) / provisioned_w


def threshold_2(row: Row, provisioned_w: float, delay_s: float = 40.0) -> float:
    """T2 as the paper places it: the largest rise within the delay must still fit below full power."""
    return 1 - largest_rise(row.watts(), provisioned_w, delay_s, row.step_s)


def sweep(make: Callable[[int], Row], planned: int, provisioned_w: float,
          extras: Sequence[float] = (0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.5), policy: Policy | None = None,
          response: Response | None = None, progress: Callable[[float], None] = lambda share: None
          ) -> list[Outcome]:
    """One outcome per share of extra servers. ``make(servers)`` gives the row."""
    found = []
    for i, extra in enumerate(extras):
        found.append(simulate(make(round(planned * (1 + extra))), provisioned_w, policy, response, extra))
        progress((i + 1) / len(extras))
    return found


def fits(outcomes: Sequence[Outcome], low: float = 0.02, high: float = 0.01) -> Outcome | None:
    """The outcome with most servers, no brake, and mean slowdowns within the limits; None when not even
    the planned row is."""
    good = [o for o in outcomes if not o.brakes and o.low_slowdown <= low and o.high_slowdown <= high]
    return max(good, key=lambda o: o.servers, default=None)
