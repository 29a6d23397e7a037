"""The equality check: silent on what is right, loud on planted mistakes, and fair to rounding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from workbench.errors import Cancelled, SettingsError
from workbench.runtime import load
from workbench.runtime.model import Model
from workbench.settings import Settings
from workbench.speculation import equality
from workbench.speculation.measuring import decode

PROMPT = "def count_words(text):\n    counts = {}\n"
BASE = Settings().with_({"limits.max_new_tokens": 24, "telemetry.preset": "off", "telemetry.power": False,
                         "sampling.temperature": 0.0, "limits.stop_at_eos": False})


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    found = load(BASE, lambda event: None)
    yield found
    found.close()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("method", ["token_recycling", "draft_model"])
def test_a_lossless_run_is_the_targets_own(model: Model, method: str, temperature: float) -> None:
    settings = BASE.with_({"decoding": method, "sampling.temperature": temperature, "seed": 4})
    output = decode(model, settings, [PROMPT]).ids[0]
    found = equality.check(model, PROMPT, output, settings)
    assert found.places == 24
    assert found.bugs == 0, found.describe()
    if model.forward.executor is not None:  # its rows have the same bits however many there are
        assert found.exact
        assert found.noise == 0.0


def test_a_planted_wrong_token_is_a_bug_at_its_place(model: Model) -> None:
    output = list(decode(model, BASE, [PROMPT]).ids[0])
    scores = list(equality._scores(model, BASE, model.encode(PROMPT), output, 1, _greedy(), _guard()))
    output[10] = int(scores[10].argsort()[-40])  # a token that the target does not want at all
    found = equality.check(model, PROMPT, output, BASE)
    first = found.differences[0]
    assert (first.place, first.emitted, first.label) == (10, output[10], "real bug")
    assert "real bug" in found.describe()
    assert "token 10" in found.describe() or found.bugs > 1


def test_a_walk_that_keeps_a_wrong_draft_is_found(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic mistake: verification that accepts without looking."""
    from workbench.runtime import speculation

    def gullible(proposal: object, logits: torch.Tensor, position: int, sampler: object
                 ) -> tuple[list[int], list[int]]:
        tokens = proposal.tokens[:2]  # type: ignore[attr-defined]
        return list(range(len(tokens) + 1)), [*tokens, int(logits[len(tokens)].argmax())]

    settings = BASE.with_({"decoding": "draft_model", "decoding.fallback": False})
    right = decode(model, settings, [PROMPT]).ids[0]
    monkeypatch.setattr(speculation, "walk", gullible)
    wrong = decode(model, settings, [PROMPT]).ids[0]
    assert wrong != right
    assert equality.check(model, PROMPT, wrong, settings).bugs > 0


def test_float32_modules_have_noise_and_no_bugs() -> None:
    """Torch's kernels round by the number of rows; the check must know that and stay silent."""
    settings = BASE.with_({"weights": "fp32", "decoding": "token_recycling"})
    model = load(settings, lambda event: None)
    try:
        output = decode(model, settings, [PROMPT]).ids[0]
        found = equality.check(model, PROMPT, output, settings)
        assert 0.0 < found.noise < 0.01
        assert found.bugs == 0
    finally:
        model.close()


def rows(*values: list[float]) -> Iterator[torch.Tensor]:
    return iter(torch.tensor(values))


def test_a_gap_within_the_noise_is_a_near_tie_and_a_larger_one_a_bug() -> None:
    alone = [[1.00, 0.99, 0.0], [3.0, 2.0, 0.0]]
    together = [[0.99, 1.00, 0.0], [3.0, 2.0, 0.0]]  # rounding turned the first place over
    found = equality._compare(rows(*alone), rows(*together), [1, 1])
    assert found.noise == pytest.approx(0.02, abs=1e-4)
    assert [d.label for d in found.differences] == ["numeric near-tie", "real bug"]
    assert (found.near_ties, found.bugs, found.exact) == (1, 1, False)


def test_a_shift_of_a_whole_row_is_no_noise() -> None:
    found = equality._compare(rows([1.0, 0.5, 0.0]), rows([11.0, 10.5, 10.0]), [0])
    assert found.noise == pytest.approx(0.0, abs=1e-5)
    assert found.exact


def test_the_ratio_rule_has_no_text_to_compare(model: Model) -> None:
    settings = BASE.with_({"decoding": "draft_model", "decoding.rule": "ratio", "sampling.temperature": 1.0})
    with pytest.raises(SettingsError, match="coupled"):
        equality.check(model, PROMPT, [1, 2], settings)


def test_it_can_be_cancelled(model: Model) -> None:
    with pytest.raises(Cancelled):
        equality.check(model, PROMPT, [1, 2, 3], BASE, cancelled=lambda: True)


def _greedy() -> object:
    from workbench.runtime.sampling import Sampler

    return Sampler()


def _guard() -> object:
    from workbench.runtime.guard import Guard

    return Guard(lambda: False)
