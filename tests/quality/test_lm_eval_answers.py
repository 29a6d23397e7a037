"""Texts up to their ends: the same as what the model says alone, no longer than needed."""

from __future__ import annotations

from typing import Any

import pytest

from workbench import zoo
from workbench.errors import Cancelled, SettingsError
from workbench.quality.lm_eval_answers import Answerer, Wish, cut
from workbench.settings import Settings


@pytest.fixture(scope="module")
def model() -> Any:
    from workbench.runtime import load

    return load(Settings().with_({"model.source": "wb-1m", "weights": "fp32", "compute.threads": 1}),
                lambda event: None)


def whole(model: Any, prompt: str, tokens: int) -> str:
    settings = model.settings.with_({"limits.max_new_tokens": tokens, "sampling.temperature": 0.0})
    return str(model.generate([prompt], settings, lambda e: None, lambda: False).texts[0])


def test_wishes() -> None:
    assert Wish.of({}) == Wish(())
    greedy = {"until": "\n", "max_gen_toks": 7, "temperature": 0.9, "do_sample": False}
    assert Wish.of(greedy) == Wish(("\n",), 7)
    assert Wish.of({"until": ["a", ""], "temperature": 0.5, "top_p": 0.9}, 2) == Wish(
        ("a",), temperature=0.5, top_p=0.9, turn=2)
    assert Wish.of({"do_sample": True}).temperature == 1.0
    with pytest.raises(SettingsError, match="must be numbers"):
        Wish.of({"max_gen_toks": "many"})
    assert cut("abcd", ["d", "bc"]) == "a"
    assert cut("abcd", ["x"]) == cut("abcd", []) == "abcd"


def test_texts_end_where_the_task_says(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [p.text for p in zoo.prompts()[:3]]
    texts = [whole(model, p, 48) for p in prompts]
    ends = ("\n",)
    assert any("\n" in t[1:] for t in texts)
    forwards: list[int] = []
    before = model.forward.__class__.__call__

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        forwards.append(1)
        return before(self, *args, **more)

    monkeypatch.setattr(model.forward.__class__, "__call__", counted)
    work = Answerer(model, model.settings, lambda: False)
    assert work.answer(prompts, Wish(ends, 48)) == [cut(t, ends) for t in texts]
    short = texts[0][:3]
    forwards.clear()
    assert work.answer(prompts[:1], Wish((short[1:],), 48)) == [short[:1]]
    assert len(forwards) < 10  # of 48: it stopped where the end was said


def test_long_prompts_keep_their_end(model: Any) -> None:
    work = Answerer(model, model.settings, lambda: False)
    most = model.forward.max_positions
    long = "one two three four five six seven\n" * most
    assert len(work.answer([long], Wish((), 8))[0]) > 0
    assert (work.cut_prompts, work.shortened) == (1, 0)
    fitted = work._fitted(long, 100)
    assert long.endswith(fitted)
    assert 90 <= len(model.encode(fitted)) <= 100
    work.answer(["x"], Wish(("\n", " "), 10 * most))
    assert work.shortened == 1


def test_sampling_takes_other_random_numbers_every_turn(model: Any) -> None:
    work = Answerer(model, model.settings, lambda: False)
    wishes = [Wish((), 24, temperature=1.5, turn=t) for t in (0, 1, 0)]
    first, second, again = (work.answer(["Once upon"], w)[0] for w in wishes)
    assert first == again
    assert first != second


def test_cancel_is_no_answer(model: Any) -> None:
    with pytest.raises(Cancelled):
        Answerer(model, model.settings, lambda: True).answer(["Once"], Wish((), 8))
