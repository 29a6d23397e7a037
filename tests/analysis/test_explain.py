"""Composition, causes, advice and its verdict, on events of known truth."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import events as ev
from workbench.analysis.advising import advise, verdict
from workbench.analysis.composition import compositions
from workbench.analysis.explain import explain
from workbench.analysis.waterfall import breakdown, waterfall
from workbench.settings import Settings


def run(n: int = 50, forward_s: float = 0.010, after_s: float = 0.001, gap_s: float = 0.001, *,
        rows: dict[str, float] | None = None, hole_s: float = 0.002, profiler_s: float = 0.0,
        drafts: tuple[int, int] | None = None, threads: int = 2, slowdown: float = 1.0,
        calls: int = 1, weights: str = "bf16") -> list[ev.Event]:
    """``n`` steps; one window whose rows (class -> seconds) and ``hole_s`` make the forward.

    ``profiler_s``: what the profiler added, evenly by calls. ``drafts``: (drafted, emitted) per step."""
    rows = rows or {"matmul": 0.006, "attention": 0.002}
    each = 1 if drafts is None else drafts[1]
    phase = "decode" if drafts is None else "verify"
    events: list[ev.Event] = [
        ev.RunStarted(prompt_tokens=20), ev.Token(t_s=1.0, index=0, id=0, text="a"),
        ev.Effective(path="compute.threads", requested="0", effective=str(threads)),
        ev.Effective(path="weights", requested=weights, effective=weights)]
    t, index = 1.0, 1
    for step in range(1, n + 1):
        if drafts is not None:
            events.append(ev.Phase(phase="draft", start_s=t, end_s=t + 0.004, step=step))
            t += 0.004
            events.append(ev.Draft(step=step, drafted=drafts[0], accepted=each - 1, emitted=each))
        end = t + forward_s + after_s
        events.append(ev.Phase(phase=phase, start_s=t, end_s=end, step=step, rows=1))
        t = end + gap_s
        for _ in range(each):
            events.append(ev.Token(t_s=t, index=index, id=0, text="a", step=step))
            index += 1
    events.append(ev.StepTime(phase=phase, start_s=1.0, end_s=t, forwards=n, forward_s=n * forward_s))
    host = calls * len(rows)
    events.append(ev.KernelWindow(
        window=1, start_s=0.5, end_s=0.6, preset="kernels", phase=phase, host_events=host,
        wall_s=sum(rows.values()) + hole_s + profiler_s, gap_s=hole_s, dispatch_s=1e-7))
    for cls, seconds in rows.items():
        events.append(ev.Kernel(
            window=1, phase=phase, layer=0, name=f"op of {cls}", kind="op", cls=cls, device="cpu",
            calls=calls, total_s=seconds + profiler_s / len(rows), mean_s=seconds, min_s=seconds,
            max_s=seconds))
    if slowdown != 1.0:
        events.append(ev.Interference(start_s=1.0, end_s=t, others=0.7, slowdown=slowdown))
    return events


def test_the_profiler_s_own_time_is_taken_off_and_the_parts_sum_to_the_forward() -> None:
    made = compositions(run(calls=100, profiler_s=0.010, hole_s=0.0, rows={
        "matmul": 0.006, "attention": 0.004}))["decode"]
    assert made.forward_s == pytest.approx(0.010)
    assert sum(made.parts.values()) == pytest.approx(0.010)
    assert made.parts["weights"] == pytest.approx(0.006, rel=0.02)
    assert made.parts["attention"] == pytest.approx(0.004, rel=0.02)


def test_parts_of_a_token() -> None:
    got = breakdown(run())
    assert got is not None
    assert got.whole
    assert got.total_ms == pytest.approx(12.0)
    assert got.parts["weights"] == pytest.approx(6.0, rel=1e-3)
    assert got.parts["attention"] == pytest.approx(2.0, rel=1e-3)
    assert got.parts["sampling"] == pytest.approx(1.0)
    assert got.parts["host"] == pytest.approx(1.0)
    # A hole of 2 ms for two operators of 0.1 us is no launching: the host did something else.
    assert got.parts["stalled"] == pytest.approx(2.0, rel=0.01)


def test_short_gaps_between_many_operators_are_launching() -> None:
    got = breakdown(run(calls=1000))
    assert got is not None
    assert got.parts["launch"] == pytest.approx(2.2, rel=0.01)  # the hole and 2000 dispatches of 0.1 us
    assert "stalled" not in got.parts


def test_a_capture_costs_the_phase_it_was_in() -> None:
    events = run()
    events.append(ev.KernelWindow(window=2, start_s=1.001, end_s=1.005, preset="light", overhead_s=0.0005,
                                  phase="decode", wall_s=0.01, host_events=3))
    got, plain = breakdown(events), breakdown(run())
    assert got is not None
    assert plain is not None
    assert got.parts["telemetry"] == pytest.approx(0.01)
    assert got.parts["sampling"] == pytest.approx(plain.parts["sampling"] - 0.01)
    assert got.parts["host"] == pytest.approx(plain.parts["host"])


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-4, 0.05), st.floats(0, 0.01), st.floats(0, 0.02), st.floats(0, 0.01),
       st.sampled_from([None, (4, 1), (4, 3), (8, 5)]), st.integers(1, 300))
def test_any_two_runs_sum_to_their_difference(forward: float, after: float, gap: float, profiler: float,
                                              drafts: tuple[int, int] | None, calls: int) -> None:
    a = run(forward_s=forward, after_s=after, gap_s=gap, profiler_s=profiler, calls=calls)
    b = run(drafts=drafts, forward_s=0.01)
    found = waterfall(a, b)
    assert found is not None
    assert math.fsum(found.deltas.values()) == pytest.approx(found.delta_ms, abs=1e-6)
    for got in (found.base, found.other):
        assert math.fsum(got.parts.values()) == pytest.approx(got.total_ms, abs=1e-6)


def first(other: list[ev.Event], base: list[ev.Event]) -> str:
    found = explain(other, base)
    assert found is not None
    assert found.first is not None
    return found.first.key


@pytest.mark.parametrize(("cause", "changes"), [
    ("host", {"gap_s": 0.02}), ("sampling", {"after_s": 0.02}),
    ("weights", {"forward_s": 0.02, "rows": {"matmul": 0.016, "attention": 0.002}}),
    ("attention", {"forward_s": 0.02, "rows": {"matmul": 0.006, "attention": 0.012}}),
    ("dequant", {"forward_s": 0.02, "rows": {"matmul": 0.006, "attention": 0.002, "dequant": 0.01}}),
    ("stalled", {"forward_s": 0.02, "hole_s": 0.012}),
    ("rejected", {"drafts": (4, 1)}),
    ("threads", {"forward_s": 0.02, "threads": 1}),
    ("neighbour", {"forward_s": 0.02, "after_s": 0.002, "gap_s": 0.002, "slowdown": 2.0})])
def test_the_planted_part_is_named_first(cause: str, changes: dict[str, Any]) -> None:
    assert first(run(**changes), run()) == cause


def test_a_neighbour_of_both_runs_is_no_cause() -> None:
    assert first(run(slowdown=2.0, gap_s=0.02), run(slowdown=2.0)) == "host"


def test_speculation_that_pays_is_named_as_tokens_per_forward() -> None:
    assert first(run(drafts=(4, 4)), run()) == "accepted"


def test_equal_runs_have_no_cause_and_short_runs_no_explanation() -> None:
    same = explain(run(), run())
    assert same is not None
    assert same.causes == ()
    assert explain([]) is None


def test_alone_the_time_that_could_be_avoided_is_named() -> None:
    found = explain(run(gap_s=0.02))
    assert found is not None
    assert found.first is not None
    assert found.first.key == "host"
    assert "avoidable" in found.first.say


def test_the_function_behind_host_work_is_named() -> None:
    events = run(gap_s=0.02)
    events.append(ev.HostStack(what="host", where="loop.py:_retire:12", samples=80, of=100, between=True))
    found = explain(events, run())
    assert found is not None
    assert found.first is not None
    assert "loop.py:_retire:12" in found.first.say


# -- advice ------------------------------------------------------------------------------------


def test_weights_advice_takes_the_bytes_off_the_measured_part() -> None:
    heavy = {"matmul": 0.016, "attention": 0.001}
    found = explain(run(forward_s=0.019, rows=heavy))
    assert found is not None
    advice = advise(found, Settings())
    assert advice is not None
    assert advice.changes == {"weights": "int8"}
    ratio = (Settings().with_(weights="int8").weights.storage_bytes(4096, 4096)
             / Settings().weights.storage_bytes(4096, 4096))
    assert advice.expects_ms == pytest.approx(21.0 - 16.0 * (1 - ratio), rel=0.01)


@pytest.mark.parametrize(("changes", "settings_", "wanted"), [
    ({"drafts": (4, 1)}, {"decoding": "prompt_lookup"}, {"decoding": "plain"}),
    ({"after_s": 0.03}, {"sampling.temperature": 0.8}, {"sampling.temperature": 0.0}),
    ({"threads": 1, "forward_s": 0.02}, {"compute.threads": 1}, {"compute.threads": 0})])
def test_each_cause_has_its_control(changes: dict[str, Any], settings_: dict[str, Any],
                                    wanted: dict[str, Any]) -> None:
    found = explain(run(**changes), run())
    assert found is not None
    advice = advise(found, Settings().with_(settings_))
    assert advice is not None
    assert advice.changes == wanted
    assert Settings().with_(settings_).with_(advice.changes)


@pytest.mark.parametrize(("expects", "measured", "right"), [
    (5.0, 6.0, True), (5.0, 9.0, False), (5.0, 12.0, False), (None, 6.0, None), (10.0, 10.5, True)])
def test_afterwards_the_advice_is_judged(expects: float | None, measured: float, right: bool | None
                                         ) -> None:
    promised = {"tok_per_s": 1e3 / expects} if expects else {}
    got = verdict({"label": "weights=int8", "before": {"tok_per_s": 100.0}, "expects": promised}, measured)
    assert got.right is right
    if right is not None:
        assert f"{measured:.3g}" in got.say
        assert "estimated" in got.say
