"""The rules on an invented clock: when to stop drafting, when to look again, how far to draft."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from workbench.runtime.draft_length import Lengths
from workbench.runtime.pays import FIRST, PLAIN, Pays


@dataclass
class Machine:
    """A plain step takes 1 and gives 1 token; a drafted one ``dearer`` and ``more``."""

    more: float
    dearer: float
    noise: float = 0.0
    spikes: float = 0.0
    seconds: float = 0.0
    tokens: float = 0.0
    drafted: list[bool] = field(default_factory=list)
    news: list[str] = field(default_factory=list)

    def run(self, pays: Pays, steps: int, sequences: int = 1, seed: int = 0) -> None:
        chance = random.Random(seed)
        for _ in range(steps):
            drafted = pays.draft(sequences)
            whole = int(self.more)
            gives = whole + (chance.random() < self.more - whole) if drafted else 1
            seconds = (self.dearer if drafted else 1.0) * (1 + self.noise * chance.uniform(-1, 1))
            if chance.random() < self.spikes:
                seconds *= 20
            self.seconds, self.tokens = self.seconds + seconds, self.tokens + gives
            self.drafted.append(drafted)
            told = pays.told(drafted=drafted, seconds=seconds, tokens=gives * sequences)
            self.news += [told] if told else []


@pytest.mark.parametrize(("more", "dearer"), [(1.0, 1.1), (1.2, 1.5), (1.1, 3.0), (1.5, 8.0), (2.0, 2.5)])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_what_does_not_pay_is_given_up_and_costs_little_afterwards(more: float, dearer: float, noise: float
                                                                   ) -> None:
    pays, machine = Pays(), Machine(more, dearer, noise)
    machine.run(pays, 200)
    assert not pays.on
    assert "decoding plainly" in machine.news[0]
    assert machine.drafted.index(False) == FIRST
    machine.seconds = machine.tokens = 0.0
    machine.run(pays, 5000, seed=1)
    assert machine.seconds / machine.tokens < 1.03  # a plain token takes 1


@pytest.mark.parametrize(("more", "dearer"), [(1.3, 1.1), (2.0, 1.5), (4.0, 1.2)])
def test_what_pays_goes_on_and_the_comparison_costs_little(more: float, dearer: float) -> None:
    pays, machine = Pays(), Machine(more, dearer, 0.05)
    machine.run(pays, 3000)
    assert pays.on
    assert not machine.news
    assert machine.seconds / machine.tokens < 1.03 * dearer / more + 0.01
    assert pays.gain == pytest.approx(more / dearer, rel=0.25)


def test_near_the_border_it_does_not_flap() -> None:
    pays, machine = Pays(), Machine(1.25, 1.25, 0.05)
    machine.run(pays, 5000)
    assert len(machine.news) <= 20  # of 5000 steps
    assert machine.seconds / machine.tokens < 1.03


def test_it_looks_again_and_comes_back_when_the_text_changes() -> None:
    pays, machine = Pays(), Machine(1.1, 1.5)
    machine.run(pays, 500)
    assert not pays.on
    machine.more = 4.0
    machine.run(pays, 2000)
    assert pays.on
    assert "pays again" in machine.news[-1]
    assert sum(machine.drafted[-500:]) > 450


def test_a_busy_machine_does_not_decide() -> None:
    """Every twentieth step takes twenty times as long, of either kind."""
    for seed in range(10):
        pays, machine = Pays(), Machine(3.0, 1.2, 0.05, spikes=0.05)
        machine.run(pays, 400, seed=seed)
        assert pays.on
        pays, machine = Pays(), Machine(1.0, 1.6, 0.05, spikes=0.05)
        machine.run(pays, 400, seed=seed)
        assert not pays.on


def test_another_batch_is_compared_anew() -> None:
    """At eight sequences a row costs more: what paid for one does not."""
    pays, machine = Pays(), Machine(2.0, 1.2)
    machine.run(pays, 200)
    assert pays.on
    machine.dearer = 2.6
    machine.run(pays, 100, sequences=8)
    assert not pays.on
    machine.run(pays, 2000, sequences=8)  # its looks are far apart by now
    machine.dearer = 1.2
    machine.run(pays, 60, sequences=2)  # but fewer sequences are looked at soon
    assert pays.on


def test_off_means_always_drafting() -> None:
    pays, machine = Pays(enabled=False), Machine(1.0, 9.0)
    machine.run(pays, 300)
    assert all(machine.drafted)
    assert PLAIN > 0


# -- how far -------------------------------------------------------------------------------------------


def learned(chance: float, row_s: float, draft_s: float, most: int = 12, steps: int = 400
            ) -> tuple[int, float]:
    """(length in the end, its tokens per second by the formula) with geometric acceptance."""
    rule, random_ = Lengths(most, 1), random.Random(3)
    for _ in range(steps):
        k = rule.of(0)
        kept = 0
        while kept < k and random_.random() < chance:
            kept += 1
        rule.verified(0, k, range(kept))
        verify = 1.0 + row_s * k + 0.01 * random_.uniform(-1, 1)
        rule.stepped(k + 1, verify, k, draft_s * k, verify + draft_s * k, kept + 1)
    return rule.of(0), rate(chance, row_s, draft_s, rule.of(0))


def rate(chance: float, row_s: float, draft_s: float, k: int) -> float:
    tokens = sum(chance**i for i in range(k + 1))
    return tokens / (1.0 + (row_s + draft_s) * k)


@pytest.mark.parametrize("chance", [0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize(("row_s", "draft_s"), [(0.02, 0.0), (0.02, 0.1), (0.1, 0.05), (0.02, 0.4)])
def test_the_length_is_nearly_the_best_one(chance: float, row_s: float, draft_s: float) -> None:
    length, got = learned(chance, row_s, draft_s)
    best = max(rate(chance, row_s, draft_s, k) for k in range(1, 13))
    assert got > 0.93 * best, length


def test_sequences_differ() -> None:
    """One copies, one does not; the batch's counts do not blur them."""
    rule, random_ = Lengths(8, 2), random.Random(1)
    for _ in range(200):
        rows = 0
        for who, chance in ((0, 0.97), (1, 0.1)):
            k = rule.of(who)
            kept = 0
            while kept < k and random_.random() < chance:
                kept += 1
            rule.verified(who, k, range(kept))
            rows += k + 1
        rule.stepped(rows, 1.0 + 0.05 * rows, rows - 2, 0.02 * rows, 1.0 + 0.07 * rows, 6)
    assert rule.of(0) >= 6
    assert rule.of(1) <= 2
