"""Time and power of a matrix product from its shape, fitted to this machine's own measurements.

The method of GPPerf (a random forest over m, n, k, FLOPs, bytes, intensity; 16,128 runs of 36 shapes on
an RTX 4070) with its weaknesses mended: physics first, a forest only on what physics leaves; shapes that
were held out whole, not rows of shapes that were seen; the larger products held out as well; energy is
power x time by construction.

    t = ((F / P(m, n, k))^q + (bytes / B)^q)^(1/q) + t0        P = P0 s(m) s(n) s(k), s(x) = x / (x + h)
    W = W_idle + e_f F / t + e_b bytes / t                     non-negative least squares
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.energy import forest as forests

if TYPE_CHECKING:
    import numpy as np

ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "fp8": 1}
#: Names of the fitted constants: FLOP/s, bytes/s, s, half-saturation rows, columns, depth, sharpness.
CONSTANTS = ("flops", "bytes_per_s", "overhead_s", "half_m", "half_n", "half_k", "sharpness")


@dataclass(frozen=True)
class Product:
    """(m, k) x (k, n) in ``dtype``. ``seconds`` of one product, ``watts`` while it ran (None: no sensor)."""

    m: int
    n: int
    k: int
    dtype: str
    seconds: float = 0.0
    watts: float | None = None

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k

    @property
    def bytes(self) -> float:
        """Both operands once and the result once."""
        item = ITEM_BYTES.get(self.dtype, 2)
        return float(item) * (self.m * self.k + self.k * self.n + self.m * self.n)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.m, self.n, self.k


@dataclass(frozen=True)
class Physics:
    """Fitted constants of one dtype, as natural logarithms in the order of :data:`CONSTANTS`."""

    logs: tuple[float, ...]

    def constants(self) -> dict[str, float]:
        return {n: math.exp(v) for n, v in zip(CONSTANTS, self.logs, strict=True)}

    def seconds(self, products: Sequence[Product]) -> np.ndarray:
        """(rows,) float64."""
        return _model(_columns(products), self.logs)


def _columns(products: Sequence[Product]) -> np.ndarray:
    """(rows, 5) float64: m, n, k, FLOPs, bytes."""
    import numpy as np

    return np.array([[p.m, p.n, p.k, p.flops, p.bytes] for p in products], dtype=np.float64)


def _model(c: np.ndarray, logs: Sequence[float] | np.ndarray) -> np.ndarray:
    import numpy as np

    flops, rate, fixed, hm, hn, hk, q = np.exp(np.clip(logs, -60, 60))
    speed = flops * c[:, 0] / (c[:, 0] + hm) * c[:, 1] / (c[:, 1] + hn) * c[:, 2] / (c[:, 2] + hk)
    compute, memory = c[:, 3] / speed, c[:, 4] / rate
    top = np.maximum(compute, memory)
    q = 1 + q  # from a sum (q = 1) to a maximum
    return top * ((compute / top) ** q + (memory / top) ** q) ** (1 / q) + fixed


def fit_physics(products: Sequence[Product], steps: int = 60) -> Physics:
    """Least squares of log time by Gauss and Newton with damping, weakly held to plausible constants."""
    import numpy as np

    c, target = _columns(products), np.log([p.seconds for p in products])
    t = np.exp(target)
    start = np.array([math.log(np.percentile(c[:, 3] / t, 95)), math.log(np.percentile(c[:, 4] / t, 95)),
                      math.log(max(1e-9, 0.5 * float(t.min()))), math.log(8.0), math.log(64.0),
                      math.log(64.0), math.log(2.0)])
    hold = np.array([0.02, 0.02, 0.05, 0.05, 0.05, 0.05, 0.2])  # a prior worth little where data speak
    now, damping = start.copy(), 1e-2

    def rest(logs: np.ndarray) -> np.ndarray:
        return np.concatenate([np.log(_model(c, logs)) - target, hold * (logs - start)])

    error = rest(now)
    for _ in range(steps):
        jacobian = np.stack([(rest(now + 1e-4 * e) - error) / 1e-4 for e in np.eye(len(now))], axis=1)
        lhs = jacobian.T @ jacobian
        step = np.linalg.solve(lhs + damping * np.diag(np.diag(lhs) + 1e-9), -jacobian.T @ error)
        tried = rest(now + step)
        if tried @ tried < error @ error:
            moved = float(np.abs(step).max())
            now, error, damping = now + step, tried, max(1e-6, damping / 3)
            if moved < 1e-4:
                break
        else:
            damping *= 4
            if damping > 1e6:
                break
    return Physics(tuple(float(v) for v in now))


def features(products: Sequence[Product]) -> np.ndarray:
    """(rows, 14) float64: sizes, FLOPs, bytes, intensity, how sizes divide, and the dtype's width."""
    import numpy as np

    c = _columns(products)
    m, n, k = c[:, 0], c[:, 1], c[:, 2]
    aligned = [np.gcd(x.astype(np.int64), 64).astype(float) for x in (m, n, k)]
    tiles = np.ceil(m / 128) * np.ceil(n / 128)
    waste = tiles * 128 * 128 / (m * n)
    width = np.array([ITEM_BYTES.get(p.dtype, 2) for p in products], dtype=float)
    names = sorted(ITEM_BYTES)
    kind = np.array([names.index(p.dtype) if p.dtype in names else -1 for p in products], dtype=float)
    return np.stack([np.log2(m), np.log2(n), np.log2(k), np.log2(c[:, 3]), np.log2(c[:, 4]),
                     np.log2(c[:, 3] / c[:, 4]), *aligned, np.log2(tiles), waste,
                     np.log2(n / k), width, kind], axis=1)


@dataclass(frozen=True)
class TimeModel:
    """``physics`` per dtype and a forest on the logarithm of measured / physics.

    ``rest`` None: physics alone. ``band``: (10 %, 90 %) of measured / predicted on held-out shapes."""

    physics: dict[str, Physics]
    rest: forests.Forest | None
    band: tuple[float, float] = (1.0, 1.0)

    def seconds(self, products: Sequence[Product]) -> np.ndarray:
        """(rows,) float64. Raises KeyError for a dtype that was not measured."""
        import numpy as np

        base = np.zeros(len(products))
        for dtype in {p.dtype for p in products}:
            rows = [i for i, p in enumerate(products) if p.dtype == dtype]
            base[rows] = self.physics[dtype].seconds([products[i] for i in rows])
        if self.rest is None or not len(base):
            return base
        return base * np.exp(self.rest.predict(features(products)))


def fit_time(products: Sequence[Product], trees: int = 40, seed: int = 0) -> TimeModel:
    """Physics per dtype, then the forest on what it leaves. ``trees`` 0: physics alone."""
    import numpy as np

    physics = {d: fit_physics([p for p in products if p.dtype == d])
               for d in sorted({p.dtype for p in products})}
    if not trees:
        return TimeModel(physics, None)
    base = TimeModel(physics, None).seconds(products)
    left = np.log([p.seconds for p in products]) - np.log(base)
    return TimeModel(physics, forests.fit(features(products), left, trees=trees, seed=seed))


@dataclass(frozen=True)
class PowerModel:
    """``idle_w``, joules per FLOP and per byte. ``error``: median relative error on held-out shapes."""

    idle_w: float
    j_per_flop: float
    j_per_byte: float
    error: float | None = None

    def watts(self, product: Product, seconds: float) -> float:
        return self.idle_w + (self.j_per_flop * product.flops + self.j_per_byte * product.bytes) / seconds

    def joules(self, product: Product, seconds: float) -> float:
        """Power x time, never fitted on its own."""
        return self.watts(product, seconds) * seconds


def fit_power(products: Sequence[Product]) -> PowerModel | None:
    """Non-negative least squares over the products whose power was measured; None below six of them."""
    import numpy as np

    known = [p for p in products if p.watts is not None]
    if len(known) < 6:
        return None
    a = np.array([[1.0, p.flops / p.seconds, p.bytes / p.seconds] for p in known])
    b = np.array([p.watts for p in known], dtype=float)
    scale = a.max(axis=0)
    x = _non_negative(a / scale, b) / scale
    return PowerModel(*(float(v) for v in x))


def _non_negative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The least squares with x >= 0: the best of all supports (three columns, so seven)."""
    import itertools

    import numpy as np

    best, found = math.inf, np.zeros(a.shape[1])
    for size in range(1, a.shape[1] + 1):
        for columns in itertools.combinations(range(a.shape[1]), size):
            part, *_ = np.linalg.lstsq(a[:, columns], b, rcond=None)
            error = float(((a[:, columns] @ part - b) ** 2).sum())
            if (part >= 0).all() and error < best:
                best, found = error, np.zeros(a.shape[1])
                found[list(columns)] = part
    return found


def to_dict(time: TimeModel, power: PowerModel | None) -> dict[str, Any]:
    return {"physics": {d: list(p.logs) for d, p in time.physics.items()},
            "rest": time.rest.to_list() if time.rest else None, "band": list(time.band),
            "power": vars(power).copy() if power else None}


def from_dict(data: dict[str, Any]) -> tuple[TimeModel, PowerModel | None]:
    """Inverse of :func:`to_dict`. Raises KeyError, TypeError, ValueError for anything else."""
    time = TimeModel({d: Physics(tuple(v)) for d, v in data["physics"].items()},
                     forests.Forest.from_list(data["rest"]) if data["rest"] else None,
                     (float(data["band"][0]), float(data["band"][1])))
    return time, PowerModel(**data["power"]) if data["power"] else None
