"""The queue's order: round the users, each user's own runs in order."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.apps.turns import Turns
from workbench.dispatch import Job


def job(owner: str, name: str = "") -> Job:
    return Job(name or owner, lambda context: None, lambda events: None, lambda error: None, owner)


def drain(turns: Turns) -> list[Job]:
    return [turns.popleft() for _ in range(len(turns))]


def test_one_user_is_first_come_first_served() -> None:
    turns, jobs = Turns(), [job("a", str(i)) for i in range(4)]
    for each in jobs:
        turns.append(each)
    assert drain(turns) == jobs


def test_a_second_user_waits_for_one_run_not_for_ten() -> None:
    turns = Turns()
    many, one = [job("a") for _ in range(10)], job("b")
    for each in [*many, one]:
        turns.append(each)
    assert turns.index(one) == 1
    assert drain(turns)[:3] == [many[0], one, many[1]]


def test_removing_and_asking_for_what_is_not_there() -> None:
    turns, known = Turns(), job("a")
    turns.append(known)
    assert known in turns
    turns.remove(known)
    assert known not in turns
    assert len(turns) == 0
    with pytest.raises(ValueError, match="not queued"):
        turns.remove(known)
    with pytest.raises(ValueError, match="not queued"):
        turns.index(known)
    with pytest.raises(IndexError):
        turns.popleft()


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_what_is_shown_is_what_happens(owners: list[str]) -> None:
    """Iteration order (the position a user sees) equals the order of execution; nobody is lost,
    own order is kept, and nobody waits longer than one round per own run before it."""
    turns, jobs = Turns(), [job(owner, str(i)) for i, owner in enumerate(owners)]
    for each in jobs:
        turns.append(each)
    promised = list(turns)
    positions = [turns.index(each) for each in promised]
    assert positions == list(range(len(jobs)))
    ran = drain(turns)
    assert ran == promised
    for owner in set(owners):
        assert [j for j in ran if j.owner == owner] == [j for j in jobs if j.owner == owner]
        mine = deque(j for j in jobs if j.owner == owner)
        for number, each in enumerate(mine):
            assert ran.index(each) <= (number + 1) * len(set(owners)) - 1


def test_whoever_is_being_served_comes_after_those_who_arrive_meanwhile() -> None:
    turns = Turns()
    for _ in range(3):
        turns.append(job("a"))
    turns.popleft()
    late = job("b")
    turns.append(late)
    assert turns.index(late) == 0
