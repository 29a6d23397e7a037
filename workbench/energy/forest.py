"""A random forest for a few thousand rows, in numpy: enough for residuals of a physical model.

Breiman 2001: trees on bootstrap samples, a random part of the features tried at every split. Features are
cut into at most 64 bins once, so a split is two histograms. Deterministic for a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_BINS = 64


@dataclass(frozen=True)
class Tree:
    """Nodes as lists: ``feature`` -1 is a leaf with ``value``; else left where x <= ``threshold``."""

    feature: list[int]
    threshold: list[float]
    left: list[int]
    right: list[int]
    value: list[float]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """x: (rows, features) float64 -> (rows,) float64."""
        import numpy as np

        feature, threshold = np.array(self.feature), np.array(self.threshold)
        left, right, value = np.array(self.left), np.array(self.right), np.array(self.value)
        node = np.zeros(len(x), dtype=np.int64)
        while (inner := feature[node] >= 0).any():
            at = node[inner]
            goes_left = x[inner, feature[at]] <= threshold[at]
            node[inner] = np.where(goes_left, left[at], right[at])
        return value[node]


@dataclass(frozen=True)
class Forest:
    """The mean of its trees."""

    trees: tuple[Tree, ...]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """x: (rows, features) -> (rows,)."""
        import numpy as np

        return np.mean([t.predict(x) for t in self.trees], axis=0)

    def to_list(self) -> list[dict[str, Any]]:
        return [vars(t).copy() for t in self.trees]

    @classmethod
    def from_list(cls, data: list[dict[str, Any]]) -> Forest:
        return cls(tuple(Tree(**t) for t in data))


def fit(x: np.ndarray, y: np.ndarray, trees: int = 40, depth: int = 8, leaf: int = 4, seed: int = 0,
        share: float = 0.5) -> Forest:
    """x: (rows, features) float64, y: (rows,) float64. ``share``: of the features tried per split."""
    import numpy as np

    rng = np.random.default_rng(seed)
    tried = max(1, round(share * x.shape[1]))
    cuts = [_cuts(column) for column in x.T]
    codes = np.stack([np.searchsorted(c, column, side="left") for c, column in zip(cuts, x.T, strict=True)],
                     axis=1)
    grown = []
    for _ in range(trees):
        rows = rng.integers(0, len(x), len(x))
        nodes: dict[str, list[Any]] = {n: [] for n in ("feature", "threshold", "left", "right", "value")}
        _grow(nodes, codes[rows], y[rows], cuts, depth, leaf, tried, rng)
        grown.append(Tree(**nodes))
    return Forest(tuple(grown))


def _cuts(column: np.ndarray) -> np.ndarray:
    """Where a feature may be split: halfway between neighbouring values, at most ``_BINS`` - 1 of them."""
    import numpy as np

    values = np.unique(column)
    middles = (values[1:] + values[:-1]) / 2
    if len(middles) < _BINS:
        return middles
    return np.unique(np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1]))


def _grow(nodes: dict[str, list[Any]], codes: np.ndarray, y: np.ndarray, cuts: list[np.ndarray],
          depth: int, leaf: int, tried: int, rng: np.random.Generator) -> int:
    """Append the subtree of these rows; its root's number. ``codes``: (rows, features) bin numbers."""
    number = len(nodes["value"])
    for name, value in (("feature", -1), ("threshold", 0.0), ("left", -1), ("right", -1),
                        ("value", float(y.mean()))):
        nodes[name].append(value)
    if depth == 0 or len(y) < 2 * leaf or float(y.max() - y.min()) < 1e-12:
        return number
    found = _split(codes, y, leaf, rng.choice(codes.shape[1], tried, replace=False))
    if found is None:
        return number
    feature, bin_ = found
    goes_left = codes[:, feature] <= bin_
    nodes["feature"][number], nodes["threshold"][number] = feature, float(cuts[feature][bin_])
    for side, rows in (("left", goes_left), ("right", ~goes_left)):
        nodes[side][number] = _grow(nodes, codes[rows], y[rows], cuts, depth - 1, leaf, tried, rng)
    return number


def _split(codes: np.ndarray, y: np.ndarray, leaf: int, features: np.ndarray) -> tuple[int, int] | None:
    """(feature, last bin on the left) with the least sum of squares; None where no split leaves ``leaf``
    rows on each side."""
    import numpy as np

    best = -np.inf
    found: tuple[int, int] | None = None
    total, rows = float(y.sum()), len(y)
    for f in features.tolist():
        column = codes[:, f]
        count = np.bincount(column).cumsum()[:-1]
        if not len(count):
            continue
        left = np.bincount(column, weights=y).cumsum()[:-1]
        usable = (count >= leaf) & (rows - count >= leaf)
        if not usable.any():
            continue
        gain = np.where(usable, left**2 / np.maximum(count, 1)
                        + (total - left) ** 2 / np.maximum(rows - count, 1), -np.inf)
        at = int(gain.argmax())
        if gain[at] > best:
            best, found = float(gain[at]), (f, at)
    return found
