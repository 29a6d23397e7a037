"""How wrong a model of matrix products is on products that it has not seen.

Three splits, the honest ones first: whole shapes held out (a shape in another dtype counts as the same);
the largest fifth held out; and rows at random, which GPPerf used and which lets every shape into both
sides. Four methods: a roofline of two constants, a forest alone (GPPerf's), physics alone, both together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.energy.gemm import Product, TimeModel, features, fit_power, fit_time

Predict = Callable[[Sequence[Product]], Sequence[float]]
SPLITS = ("shapes held out", "largest held out", "rows at random")
FOLDS = 5


@dataclass(frozen=True)
class Error:
    """Of one method on one split: absolute relative errors, and R² of log time. ``rows`` tested."""

    split: str
    method: str
    median: float
    mean: float
    p90: float
    r2: float
    rows: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def roofline(products: Sequence[Product]) -> Predict:
    """max(FLOPs / best rate, bytes / best rate) per dtype, from the training products."""
    best: dict[str, tuple[float, float]] = {}
    for p in products:
        f, b = best.get(p.dtype, (0.0, 0.0))
        best[p.dtype] = max(f, p.flops / p.seconds), max(b, p.bytes / p.seconds)
    return lambda tested: [max(p.flops / best[p.dtype][0], p.bytes / best[p.dtype][1]) for p in tested]


def forest_alone(products: Sequence[Product]) -> Predict:
    """A forest on log time without physics."""
    import numpy as np

    from workbench.energy import forest

    grown = forest.fit(features(products), np.log([p.seconds for p in products]))
    return lambda tested: list(np.exp(grown.predict(features(tested))))


def physics_alone(products: Sequence[Product]) -> Predict:
    model = fit_time(products, trees=0)
    return lambda tested: list(model.seconds(tested))


def hybrid(products: Sequence[Product]) -> Predict:
    model: TimeModel = fit_time(products)
    return lambda tested: list(model.seconds(tested))


METHODS: dict[str, Callable[[Sequence[Product]], Predict]] = {
    "roofline": roofline, "forest alone (GPPerf)": forest_alone,
    "physics alone": physics_alone, "physics + forest": hybrid}


Parts = list[tuple[list[Product], list[Product]]]


def splits(products: Sequence[Product], seed: int = 0) -> dict[str, Parts]:
    """Split -> (train, test) pairs; a dtype that a training part lacks is dropped from its test part."""
    import random

    shapes = sorted({p.shape for p in products})
    rng = random.Random(seed)
    rng.shuffle(shapes)
    fold = {s: i % FOLDS for i, s in enumerate(shapes)}
    whole = [([p for p in products if fold[p.shape] != i], [p for p in products if fold[p.shape] == i])
             for i in range(FOLDS)]
    by_size = sorted({p.shape for p in products}, key=lambda s: s[0] * s[1] * s[2])
    large = set(by_size[-max(1, len(by_size) // 5):])
    rows = list(products)
    rng.shuffle(rows)
    cut = max(1, len(rows) // 5)
    found = {SPLITS[0]: whole,
             SPLITS[1]: [([p for p in products if p.shape not in large],
                          [p for p in products if p.shape in large])],
             SPLITS[2]: [(rows[cut:], rows[:cut])]}
    return {name: [(a, [p for p in b if p.dtype in {q.dtype for q in a}]) for a, b in parts if a and b]
            for name, parts in found.items()}


def errors(products: Sequence[Product], methods: Sequence[str] = tuple(METHODS), seed: int = 0,
           progress: Callable[[str], None] = lambda text: None
           ) -> tuple[list[Error], list[tuple[float, float]]]:
    """(one :class:`Error` per split and method, (measured, predicted) seconds of whole-shape holdout by
    the last method)."""
    found, pairs = [], []
    for split, parts in splits(products, seed).items():
        for method in methods:
            progress(f"{split}: {method}")
            both: list[tuple[float, float]] = []
            for train, test in parts:
                predicted = METHODS[method](train)(test)
                both += [(p.seconds, float(s)) for p, s in zip(test, predicted, strict=True)]
            if both:
                found.append(_error(split, method, both))
            if split == SPLITS[0] and method == methods[-1]:
                pairs = both
    return found, pairs


def _error(split: str, method: str, pairs: Sequence[tuple[float, float]]) -> Error:
    wrong = sorted(abs(p / m - 1) for m, p in pairs)
    logs = [math.log(m) for m, _ in pairs]
    mean = sum(logs) / len(logs)
    total = sum((x - mean) ** 2 for x in logs)
    left = sum((math.log(m) - math.log(max(p, 1e-12))) ** 2 for m, p in pairs)
    return Error(split, method, wrong[len(wrong) // 2], sum(wrong) / len(wrong),
                 wrong[min(len(wrong) - 1, int(0.9 * len(wrong)))], 1 - left / total if total else 0.0,
                 len(pairs))


def band(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(10 %, 90 %) of measured / predicted on held-out shapes."""
    ratios = sorted(m / p for m, p in pairs if p > 0)
    if not ratios:
        return 1.0, 1.0
    return ratios[int(0.1 * (len(ratios) - 1))], ratios[round(0.9 * (len(ratios) - 1))]


def power_error(products: Sequence[Product]) -> float | None:
    """Median relative error of power on held-out shapes; None without enough measured power."""
    known = [p for p in products if p.watts is not None]
    if len(known) < 30:
        return None
    wrong: list[float] = []
    for train, test in splits(known)[SPLITS[0]]:
        model = fit_power(train)
        if model is not None:
            wrong += [abs(model.watts(p, p.seconds) / (p.watts or 1.0) - 1) for p in test]
    return sorted(wrong)[len(wrong) // 2] if wrong else None
