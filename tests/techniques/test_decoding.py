"""The drafters alone: what they propose, without a target."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.shape import ModelShape
from workbench.techniques.base import family
from workbench.techniques.decoding import Decoding, Proposal
from workbench.techniques.decoding.prompt_lookup import Lookup

SHAPE = ModelShape("LlamaForCausalLM", 4, 64, 4, 2, 16, 128, 1000, True, 512, "bfloat16")


def test_chain_is_a_thin_tree() -> None:
    proposal = Proposal.chain([5, 6, 7])
    assert proposal.parents == [-1, 0, 1]
    assert proposal.probs == [None] * 3
    assert Proposal.chain([]).tokens == []


@pytest.mark.parametrize("name", list(family("decoding")))
def test_rows_are_what_one_verification_needs(name: str) -> None:
    method = family("decoding")[name]()
    assert method.rows() >= 1
    own_loop = type(method).loop is not Decoding.loop  # one row per step, computed another way
    alone = name == "plain" or name.startswith("diffusion_") or own_loop
    assert alone == (method.rows() == 1)


def test_lookup_copies_what_followed_the_longest_match() -> None:
    lookup = Lookup(3, 4)
    assert lookup.propose([1, 2, 3, 9, 2, 3], 10).tokens == [9, 2, 3, 9]  # then its own copy
    assert Lookup(3, 2).propose([1, 2, 3, 9, 2, 3], 10).tokens == [9, 2]
    assert Lookup(3, 8).propose([1, 2, 3, 9, 2, 3], 1).tokens == [9]
    assert Lookup(3, 8).propose([1, 2, 3, 4], 5).tokens == []
    assert Lookup(3, 8).propose([1], 5).tokens == []


def test_lookup_prefers_the_latest_place() -> None:
    assert Lookup(1, 1).propose([7, 1, 7, 2, 7, 3, 7], 1).tokens == [3]


def test_lookup_follows_a_repeating_text() -> None:
    assert Lookup(2, 6).propose([4, 5, 4, 5, 4, 5], 6).tokens == [4, 5, 4, 5, 4, 5]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(1, 4), st.integers(1, 6))
def test_lookup_against_a_search(tokens: list[int], ngram: int, span: int) -> None:
    """Grown token by token, the index finds what a scan of the whole text finds."""
    lookup = Lookup(ngram, span)
    for end in range(2, len(tokens) + 1):
        now = tokens[:end]
        want: list[int] = []
        for n in range(min(ngram, end - 1), 0, -1):
            places = [p for p in range(n, end) if now[p - n:p] == now[end - n:]]
            if places:
                period = end - places[-1]
                want = [now[places[-1] + i % period] for i in range(span)]
                break
        assert lookup.propose(now, 100).tokens == want


def test_draft_model_says_why_it_does_not_fit() -> None:
    from workbench.machine import Machine

    draft = family("decoding")["draft_model"]
    why = draft().applies(SHAPE, Machine("cpu", 1, 1 << 30))
    assert why is not None
    assert "vocabulary" in why
    bundled = dataclasses.replace(SHAPE, vocab=4096, hidden=2048, intermediate=4096)
    assert draft().applies(bundled, Machine("cpu", 1, 1 << 30)) is None
