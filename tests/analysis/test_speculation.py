"""Chains and trees from events: who was kept, at which depth, and what a step gave."""

from __future__ import annotations

from tests import synthetic
from workbench import events as ev
from workbench.analysis import speculation as of

MARK = of.MARK


def tree() -> list[ev.Event]:
    """One verification of the tree a(b(d), c), e: a and c are kept, then the target's own."""
    return [ev.Token(index=0, id=0, text="<"),
            ev.Token(index=1, id=1, text="a", source="draft", step=1),
            ev.Token(index=2, id=2, text="c", source="draft", step=1),
            ev.Token(index=3, id=3, text="!", source="bonus", step=1),
            ev.Draft(step=1, drafted=5, accepted=2, emitted=3, rows=6,
                     proposed=MARK.join("abcde"), parents="-1,0,0,1,-1", kept="0,2"),
            ev.Token(index=4, id=4, text="+", step=2)]


def test_a_tree_in_the_ribbon() -> None:
    first, step, last = of.ribbon(tree())
    assert [c.text for c in first.cells] == ["<"]
    assert [(c.text, c.state, c.depth) for c in step.cells] == [
        ("a", "accepted", 1), ("b", "rejected", 2), ("c", "accepted", 2), ("d", "rejected", 3),
        ("e", "rejected", 1), ("!", "bonus", 0)]
    assert step.text == "ac!"
    assert [(c.text, c.state) for c in last.cells] == [("+", "plain")]


def test_depths_of_a_tree_count_only_what_was_reached() -> None:
    rows = [(d.depth, d.nodes, d.tried, d.kept) for d in of.by_depth(tree())]
    # c has no children: depth 3 was drafted below b, where the walk never came.
    assert rows == [(1, 2, 1, 1), (2, 2, 1, 1), (3, 1, 0, 0)]


def test_depths_of_chains() -> None:
    events = [ev.Draft(step=s, drafted=3, accepted=a, emitted=a + 1) for s, a in enumerate((0, 1, 3, 3))]
    found = of.by_depth(events)
    assert [(d.tried, d.kept) for d in found] == [(4, 3), (3, 2), (2, 2)]
    assert found[0].rate == 0.75
    assert found[2].rate == 1.0


def test_tally_equals_the_planted_run() -> None:
    found = of.tally(synthetic.speculative(steps=5, gamma=4, accepted=2), "planted")
    assert (found.verifications, found.drafted, found.accepted) == (5, 20, 10)
    assert (found.emitted, found.plain) == (15, 0)
    assert found.acceptance == 0.5
    assert found.accepted_length == 3
    assert found.tokens_per_forward == 3


def test_steps_without_drafts_count_as_forwards() -> None:
    found = of.tally(tree(), "tree")
    assert found.plain == 1  # not the token of the prompt's forward
    assert found.tokens_per_forward == 2


def test_plain_runs_have_plain_steps_only() -> None:
    found = of.tally(synthetic.plain(10), "plain")
    assert (found.verifications, found.plain, found.acceptance) == (0, 9, None)
    assert found.tokens_per_forward == 1


def test_sequences_of_one_kind_are_added() -> None:
    events = [e for b in range(3) for e in (
        ev.Token(index=0, id=0, text="x", sequence=b),
        ev.Draft(step=1, drafted=2, accepted=b % 3, emitted=b + 1, sequence=b))]
    rows = of.by_kind(events, ["def f(x):\n    return x", "Compute step by step.", "import os"])
    assert [(r.name, r.accepted, r.sequences) for r in rows] == [("code", 2, [0, 2]), ("math", 1, [1])]


def test_kinds_of_the_bundled_prompts() -> None:
    """A guess, but not a coin: most bundled prompts are recognized."""
    from workbench import zoo

    found = [of.kind_of(p.text) == p.kind for p in zoo.prompts()]
    assert sum(found) >= 0.75 * len(found)
