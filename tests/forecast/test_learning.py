"""Lessons are taken from the same model that the forecast uses: with its draft, with its prompt."""

from __future__ import annotations

import dataclasses

import pytest

from workbench.events import Metric
from workbench.forecast import forecast, learn
from workbench.forecast.calibration import prompt_tokens
from workbench.forecast.hardware import rates
from workbench.forecast.model import raw_times
from workbench.machine import Machine
from workbench.settings import Settings
from workbench.shape import from_config

MACHINE = Machine("a cpu", 8, 16 << 30, ceilings={
    "ram_bytes_per_s": 2e10, "gemm_bf16_flops": 2e11, "dispatch_s": 3e-6})
SHAPE = from_config({
    "architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "num_hidden_layers": 16,
    "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 4096,
    "vocab_size": 32000, "dtype": "bfloat16", "max_position_embeddings": 4096})
DRAFT = dataclasses.replace(SHAPE, hidden=256, layers=4, heads=4, kv_heads=4, intermediate=1024)


def metrics(**values: float) -> dict[str, Metric]:
    return {name: Metric(name=name, value=value) for name, value in values.items()}


def test_a_speculative_run_that_went_as_forecast_changes_nothing() -> None:
    settings = Settings().with_(decoding="draft_model")
    times = raw_times(settings, SHAPE, MACHINE, DRAFT, accepted=2.5)
    for _ in range(3):
        learn(settings, SHAPE, MACHINE,
              metrics(tpot_s=times.tpot_s, mean_accepted_length=2.5), DRAFT)
    found = forecast(settings, SHAPE, MACHINE, draft_shape=DRAFT)
    assert found.tpot_s.value == pytest.approx(times.tpot_s)
    assert any("2.50 tokens per target forward, as in this machine's runs" in n for n in found.notes)


def test_the_time_to_the_first_token_learns_from_runs_with_other_prompts() -> None:
    """A prefill that takes twice what the roofline says, seen on 500 tokens, holds for 1000."""
    settings = Settings()
    seen = 2 * raw_times(settings, SHAPE, MACHINE, None, 500).ttft_s
    for _ in range(3):
        learn(settings, SHAPE, MACHINE, metrics(ttft_s=seen, prefill_tok_per_s=500 / seen))
    found = forecast(settings, SHAPE, MACHINE, prompt_tokens=1000)
    real = 2 * raw_times(settings, SHAPE, MACHINE, None, 1000).ttft_s
    assert found.error_of(metrics(ttft_s=real))["ttft_s"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("rate", "seconds", "batch", "tokens"), [
    (1000.0, 0.5, 1, 500), (1000.0, 0.5, 5, 100), (0.0, 0.5, 1, 0)])
def test_prompt_tokens_follow_from_the_prefill(rate: float, seconds: float, batch: int,
                                               tokens: int) -> None:
    assert prompt_tokens({"prefill_tok_per_s": rate, "ttft_s": seconds}, batch) == tokens


def test_a_measured_product_replaces_plain_bandwidth() -> None:
    """int4 moves a quarter of the bytes; when its kernel is measured to be slow, the forecast knows."""
    slow = dataclasses.replace(MACHINE, ceilings={
        **MACHINE.ceilings, "gemv_int4_bytes_per_s": 1e9, "gemv_bf16_bytes_per_s": 1.5e10})
    assert rates(slow, "cpu").products == {"int4": 1e9, "bf16": 1.5e10}
    bf16, int4 = Settings(), Settings().with_(weights="int4")
    assert forecast(int4, SHAPE, MACHINE).tpot_s.value < forecast(bf16, SHAPE, MACHINE).tpot_s.value
    assert forecast(int4, SHAPE, slow).tpot_s.value > forecast(bf16, SHAPE, slow).tpot_s.value


def test_doubt_shrinks_with_runs_that_agree_and_stays_with_runs_that_do_not() -> None:
    from workbench.forecast import Calibration

    def spread(ratios: list[float]) -> float:
        known = Calibration()
        for ratio in ratios:
            known.add("k", "tpot_s", ratio)
        return known.factor("k", "tpot_s")[1]

    assert 1.0 < spread([2.0] * 20) < spread([2.0] * 5) < spread([2.0])
    assert spread([1.0, 2.0, 4.0] * 5) > spread([2.0] * 15) * 1.4
