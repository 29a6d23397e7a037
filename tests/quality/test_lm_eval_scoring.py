"""Log-likelihoods through the workbench's own cache, against transformers in float32 on the same tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench import zoo
from workbench.errors import Cancelled, SettingsError
from workbench.quality.lm_eval_scoring import CHUNK, Scorer
from workbench.settings import Settings

FP32 = {"model.source": "wb-1m", "weights": "fp32", "compute.threads": 1}


@pytest.fixture(scope="module")
def model() -> Any:
    from workbench.runtime import load

    return load(Settings().with_(FP32), lambda event: None)


@pytest.fixture(scope="module")
def judge() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(zoo.path("wb-1m"), dtype=torch.float32)


@pytest.fixture(scope="module")
def ids(model: Any) -> list[int]:
    return [t for d in zoo.evaluation_text()[:4] for t in model.encode(d.text)]


def scorer(model: Any, **options: Any) -> Scorer:
    settings = model.settings.with_({"kv": options.pop("kv", "full")})
    return Scorer(model, settings, options.pop("cancelled", lambda: False))


def by_hand(judge: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The same tokens in one forward of transformers, nothing cached."""
    whole = torch.tensor([context + continuation])
    with torch.inference_mode():
        logits = judge(whole[:, :-1], use_cache=False).logits[0, -len(continuation):].log_softmax(-1)
    goal = whole[0, -len(continuation):]
    return float(logits.gather(1, goal[:, None]).sum()), bool((logits.argmax(-1) == goal).all())


def test_likelihoods_are_those_of_transformers(model: Any, judge: Any, ids: list[int]) -> None:
    work = scorer(model)
    for context, continuation in ((1, 1), (7, 3), (CHUNK, 1), (CHUNK - 1, 9), (40, CHUNK + 5),
                                  (2 * CHUNK + 3, 17)):
        parts = ids[:context], ids[context:context + continuation]
        value, greedy = work.score(*parts)
        want, same = by_hand(judge, *parts)
        assert value == pytest.approx(want, abs=1e-3)
        assert greedy == same


def test_greedy_is_true_only_for_what_greedy_decoding_says(model: Any, judge: Any, ids: list[int]) -> None:
    said = list(ids[:20])
    with torch.inference_mode():
        for _ in range(6):
            said.append(int(judge(torch.tensor([said]), use_cache=False).logits[0, -1].argmax()))
    work = scorer(model)
    assert work.score(said[:20], said[20:])[1]
    other = [*said[20:25], (said[25] + 1) % model.forward.vocab]
    assert not work.score(said[:20], other)[1]
    assert work.score(said[:20], other)[0] < work.score(said[:20], said[20:])[0]


def test_choices_share_their_question(model: Any, ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second choice puts only its own tokens through the model, and gives what it gives alone."""
    rows: list[int] = []
    before = Scorer._forward

    def counted(self: Scorer, tokens: torch.Tensor, base: int, end: int, keep: int) -> torch.Tensor:
        rows.append(end - base)
        return before(self, tokens, base, end, keep)

    monkeypatch.setattr(Scorer, "_forward", counted)
    question, choices = ids[:150], [ids[150:153], ids[200:205], ids[300:301]]
    together, alone = scorer(model), [scorer(model).score(question, c) for c in choices]
    rows.clear()
    assert together.score(question, choices[0]) == pytest.approx(alone[0], abs=1e-4)
    first = sum(rows)
    for choice, want in zip(choices[1:], alone[1:], strict=True):
        rows.clear()
        assert together.score(question, choice) == pytest.approx(want, abs=1e-4)
        assert sum(rows) == len(choice)
    assert first == 152


def test_choices_of_one_token_are_read_off_the_same_logits(model: Any, judge: Any, ids: list[int],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    for kv in ("full", "kivi(bits=2)"):
        work = scorer(model, kv=kv)
        first = work.score(ids[:60], ids[60:61])
        before = Scorer._forward
        monkeypatch.setattr(Scorer, "_forward", None)
        others = [work.score(ids[:60], [t]) for t in (3, 40, 400)]
        assert work.score(ids[:60], ids[60:61]) == first
        monkeypatch.setattr(Scorer, "_forward", before)
        if kv == "full":
            for token, (value, greedy) in zip((3, 40, 400), others, strict=True):
                want, same = by_hand(judge, ids[:60], [token])
                assert value == pytest.approx(want, abs=1e-3)
                assert greedy == same
        assert work.score(ids[:61], [3]) != others[0]


def test_a_cache_that_rounds_does_not_share(model: Any, ids: list[int]) -> None:
    """What was scored before never changes a figure, whichever the cache."""
    question, choices = ids[:170], [ids[170:180], ids[180:190]]
    for kv in ("int8", "kivi(bits=2)"):
        work = scorer(model, kv=kv)
        work.score(question, choices[0])
        second = work.score(question, choices[1])[0]
        assert second == pytest.approx(scorer(model, kv=kv).score(question, choices[1])[0], abs=1e-3)
        assert abs(second - scorer(model).score(question, choices[1])[0]) > 1e-6


def test_long_contexts_lose_their_beginning(model: Any, judge: Any, ids: list[int]) -> None:
    work = scorer(model)
    most = work.most
    long = (ids * (1 + most // len(ids)))[:most + 50]
    value, _ = work.score(long[:-4], long[-4:])
    assert work.cut == 1
    assert value == pytest.approx(by_hand(judge, long[-(most + 1):-4], long[-4:])[0], abs=1e-3)
    work.score(long[:10], long[10:12])
    assert work.cut == 1


def test_bad_requests_and_cancel(model: Any, ids: list[int]) -> None:
    work = scorer(model)
    assert work.score(ids[:3], []) == (0.0, True)
    with pytest.raises(SettingsError, match="without context"):
        work.score([], ids[:3])
    with pytest.raises(SettingsError, match="longer than the model's"):
        work.score(ids[:3], [1] * (work.most + 1))
    with pytest.raises(Cancelled):
        scorer(model, cancelled=lambda: True).score(ids[:3], ids[3:5])
    stops = iter([False, True])
    stopping = scorer(model, cancelled=lambda: next(stops, True))
    with pytest.raises(Cancelled):
        stopping.score(ids[:300], ids[300:310])
    stopping.cancelled = lambda: False
    assert stopping.score(ids[:9], ids[9:12]) == pytest.approx(work.score(ids[:9], ids[9:12]), abs=1e-4)
