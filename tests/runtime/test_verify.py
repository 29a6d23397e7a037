"""Verification rules on scripted and tabulated targets, without a model."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.runtime.sampling import Sampler
from workbench.runtime.verify import children, depths, walk
from workbench.techniques.decoding import Proposal

VOCAB = 4


def rows_for(*tokens: int) -> torch.Tensor:
    """[n, V] logits whose argmax is the given token."""
    return torch.nn.functional.one_hot(torch.tensor(tokens), VOCAB).float() * 9


@pytest.mark.parametrize(("target", "kept", "tokens"), [
    ([3, 3, 3, 3], [0], [3]),  # never right
    ([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]),  # always right, and a bonus
    ([0, 1, 0, 3], [0, 1, 2], [0, 1, 0]),  # right twice
])
def test_chain_against_scripted_targets(target: list[int], kept: list[int], tokens: list[int]
                                        ) -> None:
    proposal = Proposal.chain([0, 1, 2])
    assert walk(proposal, rows_for(*target), 5, Sampler()) == (kept, tokens)


def test_empty_proposal_is_plain_decoding() -> None:
    assert walk(Proposal(), rows_for(2), 0, Sampler()) == ([0], [2])


def test_tree_takes_the_branch_that_the_target_confirms() -> None:
    #       root -> 0 -> 1        (nodes 0, 2)
    #            -> 3 -> 2 -> 0   (nodes 1, 3, 4)
    proposal = Proposal([0, 3, 1, 2, 0], [-1, -1, 0, 1, 3], [None] * 5)
    logits = rows_for(3, 9 % VOCAB, 2, 0, 0, 1)  # root says 3; node 1 says 2; node 3 says 0; then 1
    rows, tokens = walk(proposal, logits, 0, Sampler())
    assert rows == [0, 2, 4, 5]
    assert tokens == [3, 2, 0, 1]
    assert depths(proposal.parents) == [1, 1, 2, 2, 3]
    assert children(proposal.parents)[:2] == [[0, 1], [2]]


# -- distributions ---------------------------------------------------------------------------------

_GENERATOR = torch.Generator().manual_seed(11)
#: logits of the next token after every prefix of up to two tokens; and a draft's, different ones.
TARGET = torch.randn(1 + VOCAB + VOCAB**2, VOCAB, generator=_GENERATOR) * 1.2
DRAFT = TARGET + torch.randn(TARGET.shape, generator=_GENERATOR)
DRAWS = 40_000


def state(prefix: tuple[int, ...]) -> int:
    return 0 if not prefix else 1 + prefix[0] if len(prefix) == 1 else (
        1 + VOCAB + prefix[0] * VOCAB + prefix[1])


def exact(sampler: Sampler) -> torch.Tensor:
    """Probability of each of the V^3 three-token texts under plain sampling."""
    p = sampler.probabilities(TARGET)
    return torch.stack([p[0, a] * p[1 + a, b] * p[state((a, b)), c] for a in range(VOCAB)
                        for b in range(VOCAB) for c in range(VOCAB)]).double()


def chain(sampler: Sampler, kind: str) -> Proposal:
    """Two drafted tokens from the tabulated draft."""
    tokens: list[int] = []
    probs: list[torch.Tensor | None] = []
    for place in range(2):
        logits = DRAFT[state(tuple(tokens))]
        q = sampler.probabilities(logits)
        if kind == "ratio":
            tokens.append(int(sampler.draw(q[None], [place], stream=7)))
            probs.append(q)
        elif kind == "coupled":
            tokens.append(int(sampler.draw(q[None], [place])))
            probs.append(None)
        else:  # deterministic, like a lookup
            tokens.append(int(logits.argmax()))
            probs.append(None)
    return Proposal.chain(tokens, probs)


def text_of(sampler: Sampler, kind: str) -> tuple[tuple[int, ...], int]:
    """Three tokens by speculation, and how many drafted ones were kept in the first step."""
    proposal = chain(sampler, kind)
    prefixes = [(), (proposal.tokens[0],), tuple(proposal.tokens)]
    rows, tokens = walk(proposal, TARGET[[state(p) for p in prefixes]], 0, sampler)
    kept = len(rows) - 1
    while len(tokens) < 3:
        place = len(tokens)
        logits = TARGET[state(tuple(tokens))][None]
        tokens.append(walk(Proposal(), logits, place, sampler)[1][0])
    return tuple(tokens[:3]), kept


def z_score(counts: torch.Tensor, probs: torch.Tensor) -> float:
    """Chi-square of counts against n * probs, as standard deviations from its mean."""
    used = probs > 0
    assert counts[~used].sum() == 0
    expected = probs[used] * counts.sum()
    chi = ((counts[used] - expected) ** 2 / expected).sum()
    free = int(used.sum()) - 1
    return float((chi - free) / math.sqrt(2 * free))


def sample(kind: str, **options: float) -> tuple[torch.Tensor, float]:
    counts = torch.zeros(VOCAB**3, dtype=torch.double)
    kept = 0
    for seed in range(DRAWS):
        sampler = Sampler(seed=seed, **options)  # type: ignore[arg-type]
        (a, b, c), accepted = text_of(sampler, kind)
        counts[(a * VOCAB + b) * VOCAB + c] += 1
        kept += accepted
    return counts, kept / DRAWS


@pytest.mark.parametrize("kind", ["ratio", "coupled", "lookup"])
def test_sampled_speculation_has_the_targets_distribution(kind: str) -> None:
    """40 000 texts of three tokens against the exact table: chi-square within four deviations."""
    counts, kept = sample(kind, temperature=0.9)
    z = z_score(counts, exact(Sampler(temperature=0.9)))
    print(f"{kind}: z = {z:.2f}, kept {kept:.2f} of 2")
    assert abs(z) < 4
    assert kept > 0.1


def test_ratio_rule_keeps_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean acceptance of the first token under the ratio rule is 1 - TV(p, q); coupling gets less."""
    monkeypatch.setitem(globals(), "DRAWS", 4000)
    p, q = TARGET[0].softmax(-1), DRAFT[0].softmax(-1)
    best = float(torch.minimum(p, q).sum())
    first = {}
    for kind in ("ratio", "coupled"):
        hits = 0
        for seed in range(DRAWS):
            sampler = Sampler(1.0, seed=seed)
            hits += text_of(sampler, kind)[1] >= 1
        first[kind] = hits / DRAWS
    assert abs(first["ratio"] - best) < 4 * math.sqrt(best * (1 - best) / DRAWS)
    assert first["coupled"] <= first["ratio"] + 0.02


def test_the_chi_square_can_fail() -> None:
    """A planted bug (accepting every draft) is found."""
    counts = torch.zeros(VOCAB**3, dtype=torch.double)
    for seed in range(4000):
        sampler = Sampler(0.9, seed=seed)
        a, b = chain(sampler, "ratio").tokens
        c = walk(Proposal(), TARGET[state((a, b))][None], 2, sampler)[1][0]
        counts[(a * VOCAB + b) * VOCAB + c] += 1
    assert z_score(counts, exact(Sampler(0.9))) > 8


def test_siblings_under_the_ratio_rule() -> None:
    """Two independent draws as siblings: still the target's distribution (SpecInfer)."""
    p, q = TARGET[0].softmax(-1), DRAFT[0].softmax(-1)
    counts = torch.zeros(VOCAB, dtype=torch.double)
    for seed in range(20_000):
        sampler = Sampler(1.0, seed=seed)
        tokens = [int(sampler.draw(q[None], [0], stream=s)) for s in (7, 8)]
        logits = torch.stack([TARGET[0], TARGET[1 + tokens[0]], TARGET[1 + tokens[1]]])
        _, out = walk(Proposal(tokens, [-1, -1], [q, q]), logits, 0, sampler)
        counts[out[0]] += 1
    assert abs(z_score(counts, p.double())) < 4
