"""Trees searched anew at every step: cut where a row costs more than it gives."""

from __future__ import annotations

import random

import pytest

from workbench.techniques.decoding import Proposal
from workbench.techniques.decoding._cut import Cut, Reliability
from workbench.techniques.decoding._planner import Curve
from workbench.techniques.decoding.adaptive_tables import AdaptiveTables, Tables


def clocked(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    """Every look at the clock is one step later."""
    now = [0.0]

    def tick() -> float:
        now[0] += step_s
        return now[0]

    monkeypatch.setattr("workbench.techniques.decoding._cut.time.perf_counter", tick)


@pytest.mark.parametrize(("row_s", "least", "most"), [(0.0, 63, 63), (0.3, 1, 12), (20.0, 1, 1)])
def test_dear_rows_make_small_trees(row_s: float, least: int, most: int,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    clocked(monkeypatch, 1.0)
    cut = Cut(Curve((1, 64), (1.0, 1.0 + 63 * row_s)), 63)
    worths = [0.8 * 0.9**n for n in range(63)]
    for _ in range(20):
        cut.begin()
        chosen = cut.nodes(worths)
        cut.verified({0, 1}, 3)
    assert least <= chosen <= most


def test_the_choice_gains_most_of_all_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every number of nodes, on curves with steps."""
    dice = random.Random(4)
    for _ in range(30):
        seconds = [1.0]
        for _ in range(20):
            seconds.append(seconds[-1] + dice.choice([0.0, 0.02, 0.4]))
        curve = Curve(tuple(range(1, 22)), tuple(seconds))
        worths = sorted((dice.random() for _ in range(20)), reverse=True)
        cut = Cut(curve, 20)
        rate = 1.0  # before anything ran: that of plain decoding
        gains = [sum(worths[:n]) - rate * curve(1 + n) for n in range(1, 21)]
        assert gains[cut.nodes(worths) - 1] == pytest.approx(max(gains))


def test_promises_are_corrected_by_what_was_kept() -> None:
    dice, seen = random.Random(0), Reliability()
    for _ in range(600):
        seen.count([0.9, 0.2], {i for i, p in enumerate((0.45, 0.4)) if dice.random() < p})
    assert seen(0.9) == pytest.approx(0.45, abs=0.2)  # 50 fading observations
    assert seen(0.2) == pytest.approx(0.4, abs=0.2)
    assert seen(0.9) < 0.8
    assert Reliability()(0.3) == pytest.approx(0.3)


def test_kept_nodes_are_found_along_the_tokens() -> None:
    tables = Tables(AdaptiveTables())
    tables._proposal = Proposal([5, 6, 7, 8], [-1, -1, 1, 2], [None] * 4)
    assert tables._kept([6, 7, 9]) == {1, 2}
    assert tables._kept([6, 7, 8, 1]) == {1, 2, 3}
    assert tables._kept([9]) == set()


def test_a_cut_tree_is_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the verification and contexts of the proposal belong together after a cut too."""
    import torch

    tables = Tables(AdaptiveTables(tree="auto"), Cut(Curve((1, 64), (1.0, 3.0)), 63))
    text = [1, 2, 3, 1, 2, 4, 1, 2]
    found = tables.propose(text, 4)
    assert 1 <= len(found.tokens) <= 63
    logits = torch.zeros(1 + len(found.tokens), 20)
    logits[:, 9] = 50.0
    tables.observe([*text, 9], 0, logits)
    assert 9 in tables._next[(1, 2)]
    assert len(tables._contexts) == 1 + len(found.tokens)
