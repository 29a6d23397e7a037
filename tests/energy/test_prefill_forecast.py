"""The forecast of a prompt uses measured products when there are some, and only where they apply."""

from __future__ import annotations

import pytest

from workbench.energy import gemm, gemm_fit, gemm_measure, gemm_store
from workbench.energy.gemm import Product
from workbench.forecast.model import raw_times
from workbench.forecast.products import prefill_seconds
from workbench.machine import Machine
from workbench.settings import Settings
from workbench.shape import ModelShape

LLAMA = ModelShape("LlamaForCausalLM", 4, 512, 8, 4, 64, 1408, 4096, True, 512, "bfloat16")
MACHINE = Machine("a cpu", 2, 1 << 30)


@pytest.fixture
def measured() -> None:
    """Products that take exactly 1 ns per kFLOP: 1 TFLOP/s whatever the shape."""
    products = [Product(p.m, p.n, p.k, p.dtype, p.flops / 1e12 + 1e-7)
                for p in gemm_measure.grid(60, ("bf16",), 8e9)]
    fitted = gemm_store.Fitted(gemm.fit_time(products, trees=0), None, "", [], [], "cpu", 2, 60, "today")
    gemm_store.save(MACHINE, fitted, products)
    assert gemm_fit.predict(fitted, products[:1])


@pytest.mark.usefixtures("measured")
def test_the_prompts_time_is_the_sum_of_its_products() -> None:
    rows = 256
    flops = 2 * rows * LLAMA.layers * LLAMA.layer_parameters + 2 * LLAMA.embedding_parameters
    got = prefill_seconds(Settings(), LLAMA, MACHINE, "cpu", rows)
    assert got == pytest.approx(flops / 1e12, rel=0.15)
    assert raw_times(Settings(), LLAMA, MACHINE, None, rows).ttft_s > got


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("change", [{"weights": "int4"}, {"weights": "fp32"}, {"threads": 7}])
def test_where_the_products_do_not_apply_they_are_not_used(change: dict[str, object]) -> None:
    assert prefill_seconds(Settings().with_(change), LLAMA, MACHINE, "cpu", 64) is None


def test_without_measurements_nothing_changes() -> None:
    assert prefill_seconds(Settings(), LLAMA, MACHINE, "cpu", 64) is None
    assert raw_times(Settings(), LLAMA, MACHINE, None, 64).ttft_s > 0


def test_joules_come_from_measured_power_and_say_so() -> None:
    from workbench.forecast import forecast

    assert forecast(Settings(), LLAMA, MACHINE).j_per_token.value is None
    power = gemm.PowerModel(idle_w=50.0, j_per_flop=1e-12, j_per_byte=2e-11, error=0.1)
    products = [Product(p.m, p.n, p.k, p.dtype, p.flops / 1e12 + 1e-7)
                for p in gemm_measure.grid(60, ("bf16",), 8e9)]
    gemm_store.save(MACHINE, gemm_store.Fitted(gemm.fit_time(products, trees=0), power, "", [], [], "cpu",
                                               2, 60, "today"), products)
    said = forecast(Settings(), LLAMA, MACHINE)
    seconds = said.tpot_s.value
    assert seconds is not None
    assert said.j_per_token.value == pytest.approx(
        50 * seconds + 2e-11 * 2 * LLAMA.parameters + 1e-12 * 2 * LLAMA.parameters, rel=0.1)
    assert said.j_per_token.low < said.j_per_token.value < said.j_per_token.high
    assert "measured products, estimated" in said.j_per_token.basis
