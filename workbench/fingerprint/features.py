"""What of a sample's numbers gives a number format away.

Black box (HSPI): the float32 bits of the logits, split into sign, exponent and fraction; here as the
mean of every bit, the distribution of trailing zero bits (a narrower format leaves its low bits empty)
and of the exponents. With a reference, for who holds the weights: how far each logit is from the
untouched model's, in powers of two, and how many are equal to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.fingerprint.collect import bits

if TYPE_CHECKING:
    import numpy as np

_EXPONENTS = 16
_DISTANCES = 28


def black_box(logits: np.ndarray) -> np.ndarray:
    """float32 [samples, n] -> float64 [samples, 32 + 25 + 16]."""
    import numpy as np

    u = bits(logits)
    each = np.stack([((u >> b) & 1).mean(1) for b in range(32)], 1)
    zeros = np.stack([(_trailing(u) == z).mean(1) for z in range(25)], 1)
    exponent = ((u >> 23) & 0xFF).astype(np.int64) - 127
    powers = np.stack([(exponent == e).mean(1) for e in range(4 - _EXPONENTS, 4)], 1)
    return np.concatenate([each, zeros, powers], 1)


def _trailing(u: np.ndarray) -> np.ndarray:
    """Number of trailing zero bits of the 23-bit fraction, 24 for a fraction of zero."""
    import numpy as np

    fraction = u & 0x7FFFFF
    lowest = (fraction & (~fraction + 1)).astype(np.float64)
    return np.where(fraction == 0, 24, np.log2(np.maximum(lowest, 1.0))).astype(np.int64)


def with_reference(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """float32 [samples, n] twice -> float64 [samples, 73 + 30]: the black box and the distances."""
    import numpy as np

    distance = np.abs(logits.astype(np.float64) - reference)
    equal = (bits(logits) == bits(reference)).mean(1)[:, None]
    power = np.floor(np.log2(np.maximum(distance, 2.0 ** -_DISTANCES)))
    steps = np.stack([(power == -e).mean(1) for e in range(_DISTANCES, -1, -1)], 1)
    return np.concatenate([black_box(logits), equal, steps], 1)
