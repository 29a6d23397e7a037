"""The model of matrix products: it recovers a known machine, beats what it should beat, and says when not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from workbench.energy import forest, gemm, gemm_error, gemm_fit, gemm_measure, gemm_store
from workbench.energy.gemm import Product
from workbench.errors import WorkbenchError
from workbench.machine import Machine

MACHINE = Machine("a cpu", 2, 1 << 30)
FLOPS, RATE, FIXED, IDLE_W, PJ_FLOP, PJ_BYTE = 1.5e13, 1e11, 5e-6, 70.0, 0.6e-12, 30e-12


def truth(p: Product, noise: float = 0.0, rng: random.Random | None = None) -> Product:
    """A machine that pays for rows in blocks of 16 (what physics alone does not know)."""
    rows = -(-p.m // 16) * 16
    speed = FLOPS * rows / (rows + 40)
    seconds = max(2.0 * rows * p.n * p.k / speed, p.bytes / RATE) + FIXED
    seconds *= 1 + (rng.uniform(-noise, noise) if rng else 0)
    watts = IDLE_W + PJ_FLOP * p.flops / seconds + PJ_BYTE * p.bytes / seconds
    return Product(p.m, p.n, p.k, p.dtype, seconds, watts)


@pytest.fixture(scope="module")
def products() -> list[Product]:
    rng = random.Random(0)
    return [truth(p, 0.03, rng) for p in gemm_measure.grid(130, ("bf16",), 8e9)]


def test_the_grid_is_what_was_asked_for() -> None:
    found = gemm_measure.grid(50, ("bf16", "fp32"), 8e9)
    assert len(found) == 100
    assert len({p.shape for p in found}) == 50
    assert all(p.flops <= 8e9 for p in found)
    assert gemm_measure.grid(50, ("bf16",), 8e9) == [p for p in found if p.dtype == "bf16"]


def test_a_forest_learns_a_step_that_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (400, 3))
    y = np.where(x[:, 1] > 0.5, 3.0, -1.0) + 0.05 * rng.standard_normal(400)
    grown = forest.fit(x[:300], y[:300], trees=15)
    assert np.abs(grown.predict(x[300:]) - y[300:]).mean() < 0.25
    again = forest.Forest.from_list(grown.to_list())
    assert np.array_equal(again.predict(x), grown.predict(x))


def test_physics_recovers_the_machine(products: list[Product]) -> None:
    c = gemm.fit_physics(products).constants()
    assert c["bytes_per_s"] == pytest.approx(RATE, rel=0.25)
    assert c["flops"] == pytest.approx(FLOPS, rel=0.5)
    assert c["overhead_s"] == pytest.approx(FIXED, rel=0.6)


def test_held_out_shapes_are_predicted_better_with_physics_and_forest(products: list[Product]) -> None:
    found, pairs = gemm_error.errors(products)
    by = {(e.split, e.method): e for e in found}
    shapes, largest, _ = gemm_error.SPLITS
    both = by[shapes, "physics + forest"]
    assert both.rows == len(products)
    assert both.median < 0.15
    assert both.median < by[shapes, "roofline"].median
    # What a forest cannot do: products larger than any that it saw.
    assert by[largest, "physics + forest"].median < 0.5 * by[largest, "forest alone (GPPerf)"].median
    low, high = gemm_error.band(pairs)
    inside = sum(low <= m / p <= high for m, p in pairs) / len(pairs)
    assert inside == pytest.approx(0.8, abs=0.03)


def test_no_shape_is_on_both_sides_of_a_split() -> None:
    both = [truth(p) for p in gemm_measure.grid(40, ("bf16", "fp32"), 8e9)]
    for name in gemm_error.SPLITS[:2]:
        for train, test in gemm_error.splits(both)[name]:
            assert not {p.shape for p in train} & {p.shape for p in test}
    largest = gemm_error.splits(both)[gemm_error.SPLITS[1]][0]
    assert max(p.flops for p in largest[0]) <= min(p.flops for p in largest[1])


def test_predictions_are_positive_and_grow_with_every_side(products: list[Product]) -> None:
    model = gemm.fit_time(products)
    for side in ("m", "n", "k"):
        means = []
        for size in (64, 256, 1024):
            others = [{**{"m": a, "n": b, "k": b}, side: size} for a in (16, 128) for b in (256, 512)]
            means.append(float(np.mean(model.seconds([Product(dtype="bf16", **o) for o in others]))))
        assert 0 < means[0] < means[1] < means[2], side


def test_power_is_recovered_and_energy_is_power_times_time(products: list[Product]) -> None:
    power = gemm.fit_power(products)
    assert power is not None
    assert power.idle_w == pytest.approx(IDLE_W, rel=0.02)
    assert power.j_per_flop == pytest.approx(PJ_FLOP, rel=0.05)
    assert power.j_per_byte == pytest.approx(PJ_BYTE, rel=0.05)
    p = products[0]
    assert power.joules(p, 2.0) == pytest.approx(2.0 * power.watts(p, 2.0))
    assert gemm_error.power_error(products) < 0.02
    unmeasured = [Product(p.m, p.n, p.k, p.dtype, p.seconds) for p in products]
    assert gemm.fit_power(unmeasured) is None


def test_power_coefficients_are_never_negative() -> None:
    falling = [Product(m, 64, 64, "bf16", 1e-3, 100.0 - m / 100) for m in range(1, 40)]
    power = gemm.fit_power(falling)
    assert power is not None
    assert min(power.idle_w, power.j_per_flop, power.j_per_byte) >= 0


def test_the_fit_is_kept_and_read_back(products: list[Product]) -> None:
    bare = [Product(p.m, p.n, p.k, p.dtype, p.seconds) for p in products[:60]]
    fitted = gemm_fit.fit(bare, "cpu", 2, "no sensor here")
    gemm_store.save(MACHINE, fitted, bare)
    again = gemm_store.load(MACHINE)
    assert again is not None
    assert again.power is None
    assert again.power_reason == "no sensor here"
    (a,), (b,) = (gemm_fit.predict(f, [Product(32, 512, 512, "bf16")]) for f in (fitted, again))
    assert a == b
    assert a["low_s"] < a["seconds"] < a["high_s"] or a["low_s"] < a["high_s"]
    assert a["joules"] is None
    with pytest.raises(WorkbenchError, match="fp32 was not measured here"):
        gemm_fit.predict(again, [Product(1, 8, 8, "fp32")])
    gemm_store.path_of(MACHINE, "cpu").write_text("{")
    assert gemm_store.load(MACHINE) is None


def test_too_few_products_are_refused(products: list[Product]) -> None:
    with pytest.raises(WorkbenchError, match="allow more time"):
        gemm_fit.fit(products[:5], "cpu", 2)


def test_real_products_are_measured_and_stop_when_asked() -> None:
    wanted = gemm_measure.grid(6, ("bf16",), 5e7)
    found = gemm_measure.measure(wanted, "cpu", 20)
    assert [p.shape for p in found] == [p.shape for p in wanted]
    assert all(1e-7 < p.seconds < 1 for p in found)
    assert all(p.watts is None for p in found)
    assert gemm_measure.measure(wanted, "cpu", 20, cancelled=lambda: True) == []
