"""A linear classifier in closed form, and how right it is on prompts it never saw.

Linear discriminants with a shrunken common covariance (the paper takes a linear support vector machine;
both draw straight borders, this one has no iteration and no random number).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: Share of the covariance that is replaced by its diagonal.
_SHRINK = 0.2


class Linear:
    """``fit`` once, ``predict`` often. Labels are 0..classes-1."""

    def fit(self, x: np.ndarray, y: np.ndarray, classes: int) -> Linear:
        """x float64 [n, f], y int [n]."""
        import numpy as np

        self._mean, self._scale = x.mean(0), x.std(0)
        self._scale[self._scale == 0] = 1.0
        x = (x - self._mean) / self._scale
        means = np.stack([x[y == c].mean(0) if (y == c).any() else np.zeros(x.shape[1])
                          for c in range(classes)])
        inner = x - means[y]
        spread = inner.T @ inner / max(1, len(x) - classes)
        spread = (1 - _SHRINK) * spread + np.diag(_SHRINK * np.diag(spread) + 1e-6)
        self._weights = np.linalg.solve(spread, means.T)
        self._bias = -0.5 * (means.T * self._weights).sum(0)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return (((x - self._mean) / self._scale) @ self._weights + self._bias).argmax(1)


@dataclass(frozen=True)
class Accuracy:
    """``low`` to ``high``: Wilson's 95 % interval. ``chance``: always guessing one class."""

    right: int
    samples: int
    chance: float

    @property
    def value(self) -> float:
        return self.right / self.samples if self.samples else 0.0

    @property
    def low(self) -> float:
        return wilson(self.right, self.samples)[0]

    @property
    def high(self) -> float:
        return wilson(self.right, self.samples)[1]

    @property
    def better(self) -> bool:
        """Whether chance is outside of the interval."""
        return self.low > self.chance

    def __str__(self) -> str:
        return (f"{100 * self.value:.1f} % of {self.samples} (95 %: {100 * self.low:.1f} to "
                f"{100 * self.high:.1f} %), chance {100 * self.chance:.1f} %")


def wilson(right: int, samples: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share (Wilson 1927); (0, 1) without samples."""
    if not samples:
        return 0.0, 1.0
    p, n = right / samples, samples
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def held_out(x: np.ndarray, y: np.ndarray, prompt: np.ndarray, classes: int, folds: int = 5,
             shuffle: int | None = None) -> tuple[Accuracy, np.ndarray]:
    """Cross-validated by prompt: all samples of a prompt are on one side. -> accuracy, confusion
    [true, said].

    ``shuffle``: a seed that permutes the training labels, the control that must stay at chance."""
    import numpy as np

    order = np.random.default_rng(0).permutation(np.unique(prompt))
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for fold in np.array_split(order, folds):
        test = np.isin(prompt, fold)
        labels = y[~test]
        if shuffle is not None:
            labels = np.random.default_rng(shuffle).permutation(labels)
        said = Linear().fit(x[~test], labels, classes).predict(x[test])
        np.add.at(confusion, (y[test], said), 1)
    counts = np.bincount(y, minlength=classes)
    return Accuracy(int(confusion.trace()), len(y), float(counts.max() / len(y))), confusion
