"""Parts that sum exactly, and the sentence that they make."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import events as ev
from workbench.analysis import advice, breakdown, summarize, waterfall, why
from workbench.analysis.waterfall import combine


def test_plain_parts(synthetic):
    got = breakdown(synthetic.plain(11, step_s=0.01, host_s=0.001))
    assert got.parts == pytest.approx({"decode": 10.0, "telemetry": 0.0, "host": 1.0})
    assert got.total_ms == pytest.approx(11.0)
    assert got.tokens_per_forward == pytest.approx(1.0)


def test_speculation_against_plain(synthetic):
    plain, fast = synthetic.plain(13), synthetic.speculative(steps=4, accepted=2)
    found = waterfall(plain, fast)
    # A forward costs 10 ms in both; each third of a token's forward less saves the mean of 11 and 10.
    assert found.deltas["decode"] == pytest.approx(0.0)
    assert found.deltas["accepted"] == pytest.approx(-2 / 3 * 10.5)
    assert found.deltas["draft"] == pytest.approx(2 / 3 * 2 / 3)
    assert found.deltas["rejected"] == pytest.approx(2 / 3 * 1 / 3)
    assert found.delta_ms == pytest.approx(4.0 - 11.0)
    text = why(found, "plain", "draft")
    assert text.startswith("draft takes 4 ms per token, 64 % less than plain (11 ms)")
    assert "3.00 tokens" in text
    assert "tokens per forward −7 ms" in text


def test_sums_exactly_and_equals_the_metrics(synthetic):
    a, b = synthetic.plain(20) + synthetic.kernels(), synthetic.speculative(7, 4, 1)
    found = waterfall(a, b)
    measured = 1e3 / summarize(b)["tok_per_s"].value - 1e3 / summarize(a)["tok_per_s"].value
    assert math.fsum(found.deltas.values()) == pytest.approx(measured, abs=1e-9)
    assert found.frame()["delta_ms"].sum() == pytest.approx(measured, abs=1e-9)


intervals = st.lists(st.tuples(
    st.sampled_from(["draft", "verify", "decode", "prefill"]), st.floats(0, 2), st.floats(0, 1)),
    max_size=12)


@given(intervals, st.lists(st.floats(0.001, 2), min_size=2, max_size=8, unique=True))
def test_any_intervals_sum_and_none_is_negative(spans, times):
    events: list[ev.Event] = [ev.Phase(phase=p, start_s=s, end_s=s + d) for p, s, d in spans]
    events += [ev.Token(t_s=t, index=i, id=i, text="") for i, t in enumerate(sorted(times))]
    got = breakdown(events)
    assert math.fsum(got.parts.values()) == pytest.approx(got.total_ms, abs=1e-6)
    assert all(v >= -1e-6 * max(1.0, got.total_ms) for v in got.parts.values())


def test_waiting_for_weights_leaves_the_forward(synthetic):
    events = synthetic.plain(11)
    events += [ev.Transfer(src="ram", dst="gpu", bytes=100, start_s=0.1, end_s=0.105, waited_s=0.004)]
    got = breakdown(events)
    assert got.parts["copies"] == pytest.approx(0.4)
    assert got.parts["decode"] == pytest.approx(9.6)


def test_capture_is_taken_from_host_time_only(synthetic):
    events = synthetic.plain(11)
    events.append(ev.KernelWindow(window=0, start_s=0.1, end_s=0.15, preset="light", overhead_s=5.0))
    got = breakdown(events)
    assert got.parts["telemetry"] == pytest.approx(1.0)
    assert got.parts["host"] == pytest.approx(0.0, abs=1e-9)


def test_too_short_is_none_and_a_sentence(synthetic):
    assert breakdown([]) is None
    assert waterfall(synthetic.plain(1), synthetic.plain(9)) is None
    assert "fewer than two tokens" in why(None, "a", "b")
    assert advice(None) == ""


def test_the_same_is_called_the_same(synthetic):
    found = waterfall(synthetic.plain(9), synthetic.plain(9))
    assert "the same time per token" in why(found, "a", "b")


def test_advice_names_the_largest_part(synthetic):
    found = waterfall(synthetic.plain(9), synthetic.plain(9, step_s=0.001, host_s=0.01))
    assert advice(found).startswith("91 % of the time per token is host work")


def test_combined_runs_weigh_tokens(synthetic):
    a, b = breakdown(synthetic.plain(11)), breakdown(synthetic.plain(31, step_s=0.02))
    both = combine([a, b, None])
    assert both.total_ms == pytest.approx((11.0 * 10 + 21.0 * 30) / 40)
    assert math.fsum(both.parts.values()) == pytest.approx(both.total_ms)
    assert combine([None]) is None
