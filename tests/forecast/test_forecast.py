"""Forecasts: exact bytes, sane directions, honest basis, and learning from finished runs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import SettingsError
from workbench.events import Metric
from workbench.forecast import Calibration, Estimate, TierUse, forecast, learn
from workbench.forecast.calibration import path_of
from workbench.forecast.model import expected_tokens, raw_times
from workbench.machine import Gpu, Machine
from workbench.settings import Settings
from workbench.shape import ModelShape, from_config, from_file

LAPTOP = Machine("a cpu", 8, 16 << 30)
H200 = dataclasses.replace(LAPTOP, gpus=(Gpu(0, "NVIDIA H200", 141 << 30),))
LLAMA = from_config({
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    "vocab_size": 128256, "dtype": "bfloat16", "max_position_embeddings": 8192})


def test_a_known_shape_has_its_known_bytes() -> None:
    """Llama-3-8B: 8.03 B parameters in bf16, 128 KiB of KV per token."""
    found = forecast(Settings(), LLAMA, LAPTOP)
    (ram,) = found.tiers
    assert ram.weights_bytes == 2 * LLAMA.parameters + 4 * 128  # and the rotary frequencies
    assert LLAMA.parameters == pytest.approx(8.03e9, rel=0.001)
    assert ram.kv_bytes == 131072 * (64 + 128)


@pytest.mark.parametrize("changes", [
    {}, {"weights": "int8"}, {"weights": "int4"}, {"weights": "fp32"}, {"kv": "int8"},
    {"tiers": "stream"}, {"weights": "int4", "tiers": "stream"}])
def test_forecast_bytes_are_the_allocated_bytes(changes: dict[str, Any], tiny_config: Path) -> None:
    from workbench.runtime.model import load

    settings = Settings().with_({"model.source": str(tiny_config), "model.weights": "random",
                                 **changes})
    shape = from_file(tiny_config)
    expected = {t.tier: t for t in forecast(settings, shape, LAPTOP).tiers}
    model = load(settings, lambda event: None)
    try:
        held = model.weights_by_tier()
        slots = getattr(settings.tiers, "window", 0) if settings.tiers.name() == "stream" else 0
        for tier, bytes_ in held.items():
            use = expected.get(tier, TierUse(tier))
            extra = use.workspace_bytes - (380 << 20) if slots and tier == "ram" else 0
            assert 0 <= bytes_ - use.weights_bytes <= extra, tier
    finally:
        model.close()


def test_fewer_bits_are_smaller_and_where_memory_binds_faster() -> None:
    wide = forecast(Settings(), LLAMA, H200)
    narrow = forecast(Settings().with_(weights="int4"), LLAMA, H200)
    assert narrow.tiers[0].weights_bytes < 0.45 * wide.tiers[0].weights_bytes
    assert narrow.tpot_s.value < wide.tpot_s.value


def test_what_does_not_fit_says_so_in_one_sentence() -> None:
    small = dataclasses.replace(LAPTOP, memory_bytes=8 << 30)
    found = forecast(Settings(), LLAMA, small)
    assert not found.fits
    assert "RAM needs" in found.misfit
    assert forecast(Settings().with_(weights="int4"), LLAMA, small).fits


def test_streaming_moves_weights_to_disk_and_is_bound_by_the_transfer() -> None:
    found = forecast(Settings().with_(tiers="stream"), LLAMA, LAPTOP)
    tiers = {t.tier: t for t in found.tiers}
    assert tiers["disk"].weights_bytes > 0.8 * 2 * LLAMA.layers * LLAMA.layer_parameters
    assert found.bound == "transfer"
    assert found.tpot_s.value > forecast(Settings(), LLAMA, LAPTOP).tpot_s.value


def test_the_basis_is_told() -> None:
    assert "estimated" in forecast(Settings(), LLAMA, LAPTOP).tpot_s.basis
    measured = dataclasses.replace(LAPTOP, ceilings={
        "ram_bytes_per_s": 2e10, "gemm_bf16_flops": 2e11, "dispatch_s": 3e-6})
    assert forecast(Settings(), LLAMA, measured).tpot_s.basis == "measured ceilings"
    energy = forecast(Settings(), LLAMA, LAPTOP).j_per_token
    assert energy.value is None
    assert energy.reason
    assert "estimated" in forecast(Settings(), LLAMA, H200).j_per_token.basis


def test_it_is_quick_enough_for_a_slider() -> None:
    forecast(Settings(), LLAMA, LAPTOP)
    began = time.perf_counter()
    forecast(Settings().with_(weights="int4"), LLAMA, LAPTOP)
    assert time.perf_counter() - began < 0.15


@pytest.mark.parametrize(("drafted", "acceptance", "expected"), [
    (0, 0.7, 1.0), (1, 0.5, 1.5), (4, 0.8, 3.3616), (3, 0.0, 1.0)])
def test_expected_tokens_is_the_chain_formula(drafted: int, acceptance: float, expected: float
                                              ) -> None:
    assert expected_tokens(drafted, acceptance) == pytest.approx(expected)


def metrics(tpot_s: float) -> dict[str, Metric]:
    return {"tpot_s": Metric(name="tpot_s", value=tpot_s),
            "mean_accepted_length": Metric(name="mean_accepted_length", value=1.0)}


def test_learning_reduces_the_error_on_runs_it_has_not_seen() -> None:
    """A machine that is three times slower than the model says, give or take a tenth."""
    settings = Settings()
    raw = raw_times(settings, LLAMA, LAPTOP, None).tpot_s
    before = forecast(settings, LLAMA, LAPTOP).error_of(metrics(3.0 * raw))["tpot_s"]
    for noise in (0.9, 1.0, 1.1, 1.05):
        learn(settings, LLAMA, LAPTOP, metrics(3.0 * noise * raw))
    after = forecast(settings, LLAMA, LAPTOP)
    assert abs(after.error_of(metrics(3.0 * raw))["tpot_s"]) < 0.1 < abs(before)
    assert "calibrated on 4 runs like this" in after.tpot_s.basis
    assert after.tpot_s.low < 3.0 * raw < after.tpot_s.high
    other = forecast(settings.with_(weights="int4"), LLAMA, LAPTOP)
    assert "calibrated on other runs" in other.tpot_s.basis


def test_a_damaged_calibration_is_forgotten() -> None:
    path_of(LAPTOP).parent.mkdir(parents=True, exist_ok=True)
    path_of(LAPTOP).write_text("[1, 2")
    assert forecast(Settings(), LLAMA, LAPTOP).tpot_s.value > 0


def test_absurd_ratios_are_not_lessons() -> None:
    calibration = Calibration()
    for ratio in (float("nan"), 0.0, 1e6):
        calibration.add("k", "tpot_s", ratio)
    assert calibration.factor("k", "tpot_s") == (1.0, 0.0, 0)


def test_estimates_tell_their_error() -> None:
    assert Estimate.around(2.0, 1.5, "s", "x").error_of(3.0) == pytest.approx(0.5)
    assert Estimate(None, reason="no sensor").error_of(3.0) is None


def test_a_config_without_a_shape_is_refused() -> None:
    from workbench.errors import ModelError

    with pytest.raises(ModelError, match="not a decoder-only"):
        from_config({"hidden_size": 8})
    with pytest.raises(SettingsError):
        Settings().with_(weights="int5")


def test_kinds_of_cache_have_their_own_sizes() -> None:
    """MLA caches its latent, not heads x dimensions: the usual formula would be far off."""
    mla = ModelShape("x", 2, 64, 4, 4, 16, 128, 100, True, 512, "bfloat16", latent_kv=80)
    assert mla.kv_elements == 160
    assert mla.kind == "mla"
