"""Numbers that can be worked out by hand, and reasons where there are none."""

from __future__ import annotations

import pytest

from workbench import events as ev
from workbench.analysis import format_metric, metrics, summarize


def values(events):
    return {k: m.value for k, m in summarize(events).items()}


def test_plain_decoding(synthetic):
    got = values(synthetic.plain(11))
    assert got["ttft_s"] == pytest.approx(0.1)
    assert got["tpot_s"] == pytest.approx(0.011)
    assert got["itl_p50_s"] == pytest.approx(0.011)
    assert got["tok_per_s"] == pytest.approx(1 / 0.011)
    assert got["prefill_tok_per_s"] == pytest.approx(200)
    assert got["new_tokens"] == 11
    assert got["mean_accepted_length"] == 1.0
    assert got["peak_ram_bytes"] == 1 << 30


def test_speculation_separates_tpot_from_itl(synthetic):
    got = values(synthetic.speculative(steps=4, gamma=3, accepted=2))
    assert got["tpot_s"] == pytest.approx(0.012 / 3)
    assert got["itl_p50_s"] == pytest.approx(0.012)
    assert got["acceptance_rate"] == pytest.approx(2 / 3)
    assert got["mean_accepted_length"] == pytest.approx(3.0)


def test_a_step_without_a_proposal_counts_as_one_token(synthetic):
    events = synthetic.speculative(steps=1, gamma=3, accepted=2)
    events += [ev.Phase(phase="decode", start_s=0.2, end_s=0.21, step=9),
               ev.Token(t_s=0.21, index=9, id=9, text="x", step=9)]
    assert values(events)["mean_accepted_length"] == pytest.approx((3 + 1) / 2)


def test_sequences_side_by_side(synthetic):
    one, two = synthetic.plain(11), synthetic.plain(11, sequence=1)
    got = values(one + [e for e in two if isinstance(e, ev.Token)])
    assert got["tpot_s"] == pytest.approx(0.011)
    assert got["tok_per_s"] == pytest.approx(2 / 0.011)
    assert got["new_tokens"] == 22


@pytest.mark.parametrize("events", [
    [], [ev.RunStarted(prompt_tokens=3)], [ev.RunEnded(status="failed", reason="no memory")],
    [ev.Token(t_s=0.1, index=0, id=0, text="a")]])
def test_what_is_missing_has_a_reason_and_no_number(events):
    for name, metric in summarize(events).items():
        assert metric.value is not None or metric.reason, name
        assert metric.value != 0 or name == "new_tokens", name


def test_a_cancelled_run_has_the_numbers_it_earned(synthetic):
    events = [*synthetic.plain(5)[:-1], ev.RunEnded(t_s=0.2, status="cancelled")]
    assert values(events)["tpot_s"] == pytest.approx(0.011)
    why = summarize([ev.RunEnded(status="cancelled")])["ttft_s"].reason
    assert "cancelled" in why


def test_energy_by_integral_and_by_counter(synthetic):
    events = synthetic.plain(10)
    last = max(e.t_s for e in events)
    got = summarize(events + synthetic.power(last))
    assert got["j_per_token"].value == pytest.approx(50 * last / 10, rel=0.02)
    assert got["mean_w"].value == pytest.approx(50)
    counter = [ev.Power(t_s=0.01 * i, device="gpu0", source="nvml", energy_j=1000 + 0.7 * i,
                        instant_w=999.0) for i in range(21)]
    got = summarize(events + counter)
    assert got["j_per_token"].value == pytest.approx(70 * last / 10, rel=0.02)


def test_devices_add_and_a_measured_source_beats_an_estimate(synthetic):
    events = synthetic.plain(10)
    both = synthetic.power() + [
        ev.Power(t_s=0.01 * i, device="cpu", source="model", quality="estimated", instant_w=500.0)
        for i in range(21)]
    assert summarize(events + both)["mean_w"].value == pytest.approx(50)
    both += [ev.Power(t_s=0.01 * i, device="gpu0", source="nvml", instant_w=100.0) for i in range(21)]
    assert summarize(events + both)["mean_w"].value == pytest.approx(150)


def test_an_estimate_says_so(synthetic):
    got = summarize(synthetic.plain() + synthetic.power(quality="estimated"))["j_per_token"]
    assert got.quality == "estimated"
    assert "(estimated)" in format_metric(got)


def test_a_window_shorter_than_ten_sensor_periods_has_no_energy(synthetic):
    slow = [ev.SensorStatus(device="gpu0", source="nvml", available=True, period_s=0.1),
            *(ev.Power(t_s=0.05 * i, device="gpu0", source="nvml", instant_w=9.0) for i in range(5))]
    got = summarize(synthetic.plain() + slow)["j_per_token"]
    assert got.value is None
    assert "shorter than 10 sensor periods" in got.reason


def test_no_sensor_gives_the_sensors_reason(synthetic):
    absent = [ev.SensorStatus(device="cpu", source="rapl", available=False, reason="not readable")]
    got = summarize(synthetic.plain() + absent)["j_per_token"]
    assert (got.value, got.reason) == (None, "no power sensor (cpu: not readable)")


def test_quality_is_the_last_final_word():
    partial = [ev.Quality(metric="perplexity", value=9.0, done=False)]
    assert "did not finish" in summarize(partial)["perplexity"].reason
    final = [*partial, ev.Quality(metric="perplexity", value=8.0, se=0.25)]
    assert format_metric(summarize(final)["perplexity"]) == "8 ± 0.25"


def test_capture_cost(synthetic):
    got = values(synthetic.plain(10) + synthetic.kernels())
    assert got["capture_overhead"] == pytest.approx(0.0005 / 0.199)


@pytest.mark.parametrize(("metric", "text"), [
    (ev.Metric(name="ttft_s", value=0.0419, unit="s", se=0.000209), "41.9 ± 0.21 ms"),
    (ev.Metric(name="tok_per_s", value=264.2, unit="tok/s", se=301.0), "264 ± 301 tok/s"),
    (ev.Metric(name="top1", value=0.933, unit="fraction", se=0.0044), "93.3 ± 0.44 %"),
    (ev.Metric(name="peak_ram_bytes", value=1 << 30, unit="bytes"), "1 GiB"),
    (ev.Metric(name="mean_accepted_length", value=1.0, unit="tokens"), "1.00"),
    (ev.Metric(name="x", value=None), "n/a"), (None, "n/a")])
def test_format(metric, text):
    assert format_metric(metric) == text


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_percentile_is_numpys(q):
    import numpy as np

    data = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    assert metrics.percentile(data, q) == pytest.approx(np.percentile(data, 100 * q))
