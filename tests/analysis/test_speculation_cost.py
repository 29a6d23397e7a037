"""Times per token and break-even from planted runs, whose answers are known to the digit."""

from __future__ import annotations

import pytest

from tests import synthetic
from workbench import events as ev
from workbench.analysis import speculation_cost as of


def test_the_split_sums_to_the_time_per_token() -> None:
    found = of.split(synthetic.speculative(steps=5, gamma=3, accepted=2))
    assert found is not None
    assert found.tokens == 15
    assert found.draft_ms == pytest.approx(2 / 3)
    assert found.verify_ms == pytest.approx(10 / 3)
    assert found.overhead_ms == pytest.approx(0.0, abs=1e-9)
    assert found.total_ms == pytest.approx(4.0)


def test_host_time_is_overhead() -> None:
    found = of.split(synthetic.plain(10, step_s=0.01, host_s=0.001))
    assert found is not None
    assert (found.plain_ms, found.overhead_ms) == (pytest.approx(10.0), pytest.approx(1.0))
    assert of.split(synthetic.plain(1)) is None


def run(t: dict[int, float], gamma: int, accepted: int, draft_s: float, steps: int = 20) -> list[ev.Event]:
    """Verifications of ``gamma`` drafts and three plain steps, with these seconds by rows."""
    events: list[ev.Event] = [ev.Phase(phase="prefill", start_s=0.0, end_s=1.0, rows=500),
                              ev.Token(t_s=1.0, index=0, id=0, text="")]
    now, index = 1.0, 1
    for step in range(1, steps + 4):
        drafted = step <= steps
        if drafted:
            events.append(ev.Phase(phase="draft", start_s=now, end_s=now + draft_s, step=step))
            now += draft_s
        rows = 1 + gamma if drafted else 1
        events.append(ev.Phase(phase="verify" if drafted else "decode", start_s=now, end_s=now + t[rows],
                               step=step, rows=rows))
        now += t[rows]
        for _ in range(1 + accepted if drafted else 1):
            events.append(ev.Token(t_s=now, index=index, id=0, text="", step=step))
            index += 1
        if drafted:
            events.append(ev.Draft(t_s=now, step=step, drafted=gamma, accepted=accepted, emitted=1 + accepted,
                                   rows=rows))
    return events


def test_the_speed_up_here_is_that_of_the_run() -> None:
    """3 accepted of 4: 4 tokens per step of 14 + 4 ms, against 10 ms per token."""
    events = run({1: 0.010, 5: 0.014}, gamma=4, accepted=3, draft_s=0.004)
    found = of.break_even(events)
    assert found is not None
    assert found.here == pytest.approx(4 * 10 / 18, rel=1e-3)
    assert of.gained(found.acceptance, 4) == pytest.approx(4.0, abs=1e-6)
    again = found.speedup[0][of.ACCEPTANCES.index(1.0)]
    assert again == pytest.approx(5 * 10 / 18, rel=1e-6)
    assert found.speedup[0][0] == pytest.approx(10 / 18, rel=1e-6)


def test_break_even_is_where_the_gain_equals_the_cost() -> None:
    events = run({1: 0.010, 5: 0.014}, gamma=4, accepted=3, draft_s=0.004)
    found = of.break_even(events)
    assert found is not None
    needed = found.needed(1)
    assert needed is not None
    assert of.gained(needed, 4) >= 1.8 > of.gained(needed - 0.05, 4)


def test_rows_cost_more_in_a_batch() -> None:
    """With every row as dear as the first, more sequences make speculating pay less."""
    slow = {rows: 0.002 * rows for rows in (1, 5)}
    found = of.break_even(run(slow, gamma=4, accepted=2, draft_s=0.0))
    assert found is not None
    assert found.needed(1) == 1.0  # five rows cost five: only if every draft is right
    flat = of.break_even(run({1: 0.010, 5: 0.010}, gamma=4, accepted=2, draft_s=0.0))
    assert flat is not None
    assert flat.needed(1) == 0.0


def test_without_a_plain_step_there_is_no_surface() -> None:
    events = [e for e in run({1: 0.01, 5: 0.014}, 4, 3, 0.004)
              if not (isinstance(e, ev.Phase) and e.phase == "decode")]
    assert of.break_even(events) is None
    assert of.break_even(events, synthetic.plain(10)) is not None  # the baseline's steps serve, too


def test_costs_interpolate_and_never_fall() -> None:
    cost = of.costs([ev.Phase(phase="decode", start_s=0, end_s=0.02, rows=1),
                     ev.Phase(phase="verify", start_s=0, end_s=0.01, rows=3),
                     ev.Phase(phase="verify", start_s=0, end_s=0.03, rows=5)])
    assert cost(1) == 0.01
    assert cost(4) == pytest.approx(0.02)
    assert cost(7) == pytest.approx(0.05)
    assert cost.measured(3)
    assert not cost.measured(4)


def test_no_drafts_no_surface() -> None:
    assert of.break_even(synthetic.plain(10)) is None
    assert of.method(synthetic.plain(10)) is None


def test_a_sequence_without_a_draft_has_its_row_in_the_step() -> None:
    """Of two sequences one is drafted for: six rows per step, three tokens for each of the two."""
    events: list[ev.Event] = [ev.Token(t_s=1.0, index=0, id=0, text="", sequence=s) for s in (0, 1)]
    now = 1.0
    for step in range(1, 9):
        drafted = step < 6
        seconds, rows = (0.012, 6) if drafted else (0.010, 2)
        events.append(ev.Phase(phase="verify" if drafted else "decode", start_s=now, end_s=now + seconds,
                               step=step, rows=rows))
        now += seconds
        for sequence, count in ((0, 5 if drafted else 1), (1, 1)):
            events += [ev.Token(t_s=now, index=step, id=0, text="", step=step, sequence=sequence)] * count
        if drafted:
            events.append(ev.Draft(t_s=now, step=step, drafted=4, accepted=4, emitted=5, rows=5, sequence=0))
    how = of.method(events)
    assert how is not None
    assert (how.nodes, how.depth, how.length) == (2.0, 2.0, 3.0)
    found = of.break_even(events, batch=2)
    assert found is not None
    assert found.here == pytest.approx(3 * 10 / 12, rel=1e-3)
