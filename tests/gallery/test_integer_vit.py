"""Integers of a trained transformer: its accuracy survives, nothing floats, and its parts are close."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.gallery import _integer_vit_training as training
from workbench.gallery import integer_vit

CHANCE = 1 / training.CLASSES


@pytest.fixture(scope="module")
def twin() -> training.FloatTwin:
    return training.train(steps=120)


class Kinds(TorchDispatchMode):
    """The kinds of numbers that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        self.seen |= {t.dtype for t in (out if isinstance(out, tuple) else (out,))
                      if isinstance(t, torch.Tensor)}
        return out


def test_the_trained_model_keeps_its_accuracy_in_integers(twin: training.FloatTwin) -> None:
    real, whole = (training.accuracy(m, 384) for m in (twin, training.integers(twin)))
    print(f"float twin {real:.3f}, integers {whole:.3f}, chance {CHANCE:.3f}")
    assert real > 2.5 * CHANCE
    assert whole > real - 0.08


def test_untrained_integers_guess(twin: training.FloatTwin) -> None:
    torch.manual_seed(0)
    assert training.accuracy(training.integers(training.FloatTwin()), 384) < 1.8 * CHANCE


def test_no_operation_of_the_integer_model_floats(twin: training.FloatTwin) -> None:
    model = training.integers(twin)
    patches, _ = training.images(4, torch.Generator().manual_seed(2))
    with Kinds() as kinds:
        model(patches)
    assert kinds.seen
    assert not [k for k in kinds.seen if k.is_floating_point]


def test_scores_of_both_agree(twin: training.FloatTwin) -> None:
    model = training.integers(twin)
    patches, _ = training.images(64, torch.Generator().manual_seed(3))
    with torch.no_grad():
        real, whole = twin(patches), model(patches).float()
    same = torch.nn.functional.cosine_similarity(real - real.mean(1, keepdim=True),
                                                 whole - whole.mean(1, keepdim=True))
    assert float(same.median()) > 0.95


def test_the_square_root_is_exact() -> None:
    v = torch.arange(200_001)
    k = integer_vit.integer_sqrt(v)
    assert bool((k * k <= v).all())
    assert bool(((k + 1) * (k + 1) > v).all())


def test_the_shift_exponential_stays_within_its_bound() -> None:
    x = torch.arange(-256 * 8, 1)
    got = integer_vit.shift_exp(x, 256, 15).double() / 2**15
    exact = (x.double() / 256).exp()
    assert float((got - exact).abs().max()) < 0.05  # 0.046 by the straight line and 1.4375 for log2 e


def test_probabilities_of_many_keys_nearly_sum_to_one() -> None:
    scores = torch.randint(-600, 600, (20, 64), generator=torch.Generator().manual_seed(4))
    total = integer_vit.shiftmax(scores, 256).double().sum(-1) / 2**15
    assert float(total.min()) > 0.995
    assert float(total.max()) <= 1
