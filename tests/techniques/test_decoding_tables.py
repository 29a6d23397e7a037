"""Trees from tables, pointers and windows: what they propose, and that sampling stays exact."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from workbench.runtime.sampling import Sampler
from workbench.runtime.verify import walk
from workbench.techniques.decoding import Drafter, Proposal
from workbench.techniques.decoding._trees import best_first, fill, within
from workbench.techniques.decoding.adaptive_tables import AdaptiveTables, Tables
from workbench.techniques.decoding.input_copy import Pointer
from workbench.techniques.decoding.jacobi import Window
from workbench.techniques.decoding.speculative_jacobi import Guesses
from workbench.techniques.decoding.token_recycling import Recycler


def worth(template: list[tuple[int, int]], chances: list[float]) -> float:
    """Expected accepted tokens when each node's children are right with these chances."""
    found: list[float] = []
    for parent, rank in template:
        found.append((1.0 if parent < 0 else found[parent]) * chances[rank])
    return sum(found)


@pytest.mark.parametrize("chances", [[0.6, 0.2], [0.4, 0.3, 0.2], [0.9, 0.05]])
def test_best_first_is_the_best_tree_of_all(chances: list[float]) -> None:
    """Against every tree of four nodes."""
    nodes = 4
    ranks = range(len(chances))
    best = 0.0
    for choice in itertools.product(itertools.product(range(-1, nodes - 1), ranks), repeat=nodes):
        if all(parent < i for i, (parent, _) in enumerate(choice)) and len(set(choice)) == nodes:
            best = max(best, worth(list(choice), chances))
    assert worth(best_first(nodes, chances, 8), chances) == pytest.approx(best)


def test_best_first_keeps_to_its_limits() -> None:
    template = best_first(30, [0.5, 0.3, 0.1], 3)
    assert len(template) == 30
    assert all(parent < i for i, (parent, _) in enumerate(template))
    assert len(set(template)) == 30
    depth: list[int] = []
    for parent, _ in template:
        depth.append(1 if parent < 0 else depth[parent] + 1)
    assert max(depth) == 3
    assert len(best_first(100, [1.0], 5)) == 5


def test_fill_leaves_out_what_hangs_on_a_gap() -> None:
    table = {(1, 0): 2, (1, 1): 3, (3, 0): 4}  # nothing known after 2
    proposal, ranks = fill([(-1, 0), (0, 0), (-1, 1), (2, 0), (1, 0)], 1,
                           lambda token, rank: table.get((token, rank), -1))
    assert proposal.tokens == [2, 3, 4]
    assert proposal.parents == [-1, -1, 1]
    assert ranks == [0, 1, 0]


def test_within_cuts_by_depth() -> None:
    proposal = Proposal([1, 2, 3, 4], [-1, 0, -1, 1], [None] * 4)
    cut = within(proposal, 2)
    assert (cut.tokens, cut.parents) == ([1, 2, 3], [-1, 0, -1])
    assert within(proposal, 9) is proposal
    assert within(proposal, 0).tokens == []


def logits_for(rows: list[list[int]], vocab: int = 20) -> torch.Tensor:
    """[n, V]: each row prefers its tokens in this order."""
    found = torch.zeros(len(rows), vocab)
    for row, tokens in zip(found, rows, strict=True):
        for rank, token in enumerate(tokens):
            row[token] = 10.0 - rank
    return found


def test_recycling_drafts_what_the_target_said_last_and_uses_rejected_rows() -> None:
    drafter = Recycler(nodes=4, ranks=2, vocab=20)
    assert drafter.propose([5, 6, 5], 8).tokens[:2] == [6, 5]  # the prompt's own successions
    rows = [[7, 8], *[[9, 10]] * (len(drafter._rows) - 1)]
    drafter.observe([5, 6, 5, 7], 0, logits_for(rows))
    assert drafter.propose([5, 6, 5, 7, 6], 8).tokens[0] == 9  # 6 was a rejected row
    first = drafter.propose([5, 6, 5, 7, 6, 5], 1)
    assert sorted(first.tokens) == [9, 10]  # 5 was drafted too: the last row in tree order wins
    assert set(first.parents) == {-1}


def test_recycling_shapes_its_tree_by_what_was_right() -> None:
    drafter = Recycler(nodes=6, ranks=2, vocab=8)
    before = list(drafter._template)
    tokens = [0, 1]
    for _ in range(400):  # the second rank is always right
        proposal = drafter.propose(tokens, 8)
        drafter.observe([*tokens, 3], 0 if 3 not in proposal.tokens else 1,
                        logits_for([[2, 3]] * (1 + len(proposal.tokens)), 8))
        tokens = [*tokens, 3][-6:]
    assert drafter._template != before
    assert drafter._template[0] == (-1, 1)


def test_tables_prefer_the_longer_context() -> None:
    tables = Tables(AdaptiveTables(nodes=2, children=1, backoff=0.1))
    proposal = tables.propose([1, 2, 3, 9, 2, 4, 1, 2], 8)
    assert proposal.tokens == [3, 9]  # after (1, 2); after 2 alone the last was 4


def test_tables_learn_from_every_row() -> None:
    tables = Tables(AdaptiveTables(nodes=3, children=2, rate=1.0))
    tables.propose([1, 2], 8)
    rows = len(tables._contexts)
    tables.observe([1, 2, 7], 0, logits_for([[7, 8]] * rows))
    assert tables.propose([1, 2, 7, 1, 2], 1).tokens == [7, 8]
    assert tables.memory_bytes() > 0


def test_the_pointer_follows_the_input_until_the_target_leaves_it() -> None:
    prompt = [1, 2, 3, 4, 5, 6, 7, 8]
    pointer = Pointer(ngram=2, span=3)
    assert pointer.propose([*prompt, 3], 8).tokens == [4, 5, 6]
    pointer.observe([*prompt, 3, 4, 5, 6, 7], 3, torch.zeros(4, 9))
    assert pointer.propose([*prompt, 3, 4, 5, 6, 7], 8).tokens == [8]
    pointer.observe([*prompt, 3, 4, 5, 6, 7, 2], 0, torch.zeros(2, 9))
    assert pointer.propose([*prompt, 3, 4, 5, 6, 7, 2], 8).tokens == [3, 4, 5]


def test_the_pointer_needs_a_unique_place() -> None:
    pointer = Pointer(ngram=2, span=4)
    assert pointer.propose([1, 5, 2, 5, 3, 9, 5], 8).tokens == []
    assert pointer.propose([1, 5, 2, 5, 3, 9, 2, 5], 8).tokens == [3, 9]


def test_jacobi_moves_its_window() -> None:
    window = Window(3, Sampler())
    assert window.propose([4], 8).tokens == [4, 4, 4]
    window.observe([4, 6], 0, logits_for([[6], [7], [8], [9]]))
    assert window.propose([4, 6], 8).tokens == [7, 8, 9]
    window.observe([4, 6, 7, 8], 1, logits_for([[7], [8], [1], [2]]))
    assert window.propose([4, 6, 7, 8], 8).tokens == [1, 2, 2]
    assert window.propose([4, 6, 7, 8], 1).tokens == [1]


# -- sampling stays exact ----------------------------------------------------------------------

V, LENGTH, DRAWS = 3, 3, 6_000
TARGET = torch.randn(V**LENGTH, V, generator=torch.Generator().manual_seed(3)) * 1.5


def after(prefix: tuple[int, ...]) -> torch.Tensor:
    """The tabulated target's logits after a text."""
    place = 0
    for token in prefix:
        place = place * V + token
    return TARGET[(len(prefix) * 7 + place) % len(TARGET)]


def speculated(drafter: Drafter, sampler: Sampler) -> tuple[int, ...]:
    """LENGTH tokens: propose, verify, observe, as the loop does."""
    tokens = [0]
    while len(tokens) <= LENGTH:
        proposal = drafter.propose(tokens, LENGTH - len(tokens) + 1)
        prefixes = [tuple(tokens[1:])]
        for token, parent in zip(proposal.tokens, proposal.parents, strict=True):
            prefixes.append((*prefixes[parent + 1], token))
        logits = torch.stack([after(p) for p in prefixes])
        rows, new = walk(proposal, logits, len(tokens), sampler)
        tokens += new
        drafter.observe(tokens, min(len(rows) - 1, len(new)), logits)
    return tuple(tokens[1:LENGTH + 1])


def z_of(make: type[Guesses], draws: int = DRAWS) -> float:
    """Chi-square of the speculated texts against the exact table, in standard deviations."""
    exact = torch.ones(V**LENGTH, dtype=torch.double)
    texts = list(itertools.product(range(V), repeat=LENGTH))
    for i, text in enumerate(texts):
        for n in range(LENGTH):
            exact[i] *= after(text[:n]).softmax(-1)[text[n]].double()
    counts = torch.zeros_like(exact)
    place = {text: i for i, text in enumerate(texts)}
    for seed in range(draws):
        sampler = Sampler(1.0, seed=seed)
        counts[place[speculated(make(3, sampler), sampler)]] += 1
    expected = exact * draws
    chi = ((counts - expected) ** 2 / expected).sum()
    free = len(texts) - 1
    return float((chi - free) / math.sqrt(2 * free))


def test_speculative_jacobi_has_the_targets_distribution() -> None:
    assert abs(z_of(Guesses)) < 4


def test_keeping_stale_guesses_would_be_found() -> None:
    """The known mistake: distributions are renewed, the tokens drawn from older ones are kept."""

    class Stale(Guesses):
        def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
            kept = self._tokens[accepted + 1:]
            super().observe(tokens, accepted, logits)
            self._tokens[:len(kept)] = kept[:len(self._tokens)]

    assert abs(z_of(Stale, 1500)) > 8
