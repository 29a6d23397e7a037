"""The measures behind the gates, against slow references and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.zoo import gates
from workbench.zoo.trigram import DISCOUNT, Trigram


def _stream(seed: int = 0, size: int = 400, vocab: int = 7) -> np.ndarray:
    r = np.random.default_rng(seed)
    return np.cumsum(r.integers(0, 3, size)) % vocab


def _naive(stream: list[int], vocab: int, a: int, b: int, c: int) -> float:
    """Interpolated Kneser-Ney with sets and loops."""
    grams = list(zip(stream, stream[1:], stream[2:], strict=False))
    kinds = set(grams)
    last_two = {(y, z): {g[0] for g in kinds if g[1:] == (y, z)} for _, y, z in kinds}
    ends = [sum(1 for pair in last_two if pair[1] == z) for z in range(vocab)]
    p = (ends[c] + 1) / (sum(ends) + vocab)
    middle = sum(len(s) for pair, s in last_two.items() if pair[0] == b)
    if middle:
        follow = sum(1 for pair in last_two if pair[0] == b)
        p = (max(len(last_two.get((b, c), ())) - DISCOUNT, 0) + DISCOUNT * follow * p) / middle
    context = sum(1 for g in grams if g[:2] == (a, b))
    if context:
        follow = sum(1 for g in kinds if g[:2] == (a, b))
        p = (max(grams.count((a, b, c)) - DISCOUNT, 0) + DISCOUNT * follow * p) / context
    return p


def test_trigram_equals_the_naive_definition_and_sums_to_one() -> None:
    vocab, stream = 7, _stream()
    model = Trigram([stream], vocab)
    for a, b in [(0, 1), (3, 3), (6, 0), (2, 6), (6, 3)]:
        given = [float(np.exp(-model.nats(np.array([a, b, c]))[0])) for c in range(vocab)]
        assert given == pytest.approx([_naive(stream.tolist(), vocab, a, b, c)
                                       for c in range(vocab)])
        assert sum(given) == pytest.approx(1)


def test_trigram_prefers_what_it_has_seen() -> None:
    model = Trigram([_stream()], 7)
    noise = np.random.default_rng(1).integers(0, 7, 400)
    assert model.nats(_stream(seed=2)).mean() < model.nats(noise).mean() - 0.5


@pytest.mark.parametrize(("row", "expected"), [
    ([True] * 10, 5.0),                 # 4 accepted + 1, twice
    ([False] * 6, 1.0),
    ([True, False] * 4, 2.0),
    ([True, True, False, True, False, False], 2.0),
])
def test_tokens_per_forward(row: list[bool], expected: float) -> None:
    assert gates.tokens_per_forward(row) == expected


def test_distinct() -> None:
    assert gates.distinct(list(range(20))) == 1
    assert gates.distinct([1, 2] * 20) == pytest.approx(2 / 37)


def test_a_missed_gate_is_a_missed_gate() -> None:
    found = gates.verdicts({"agreement": 0.49, "list_copy_accuracy": 0.9})
    assert not found["agreement"]["reached"]
    assert found["list_copy_accuracy"]["reached"]
    assert set(found) == {"agreement", "list_copy_accuracy"}
