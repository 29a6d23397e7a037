"""Tasks that can be checked: a model that answers some of them, resuming, and honest error bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.errors import Cancelled, SettingsError
from workbench.events import Quality
from workbench.quality import accuracy as scored
from workbench.settings import Settings
from workbench.zoo.recipes import tasks as made


@pytest.fixture(scope="module")
def model() -> Any:
    from workbench.runtime import load

    return load(Settings().with_({"model.source": "wb-14m", "compute.threads": 1}), lambda event: None)


def test_the_documents_answers_are_right_and_others_are_not() -> None:
    for document in scored.tasks(40):
        prompt, answer = made.split(document)
        assert made.check(document)
        assert scored._right(document, answer + "\nUser: and")
        assert not scored._right(document, answer + "0")
        assert not scored._right(document, answer[:-1])
        assert not prompt.endswith(answer)
    assert {scored.kind_of(d).split(":")[0] for d in scored.tasks(4)} == {"arithmetic", "list"}


def test_the_bundled_model_answers_some_and_partial_figures_narrow(model: Any) -> None:
    events: list[Any] = []
    found = scored.accuracy(model, events.append, lambda: False, count=24)
    figures = [e for e in events if isinstance(e, Quality)]
    assert [e.tokens for e in figures] == [8, 16, 24]
    assert [e.done for e in figures] == [False, False, True]
    assert (figures[-1].value, figures[-1].se) == (found.value, found.se)
    assert sum(n for _, n in found.by_kind.values()) == found.count == 24
    assert 0 < found.right < 24
    for document in scored.tasks(24):  # the same verdict, computed from the prompt by the recipe's own check
        answer = found.answers[made.split(document)[0]]
        if scored._right(document, answer):
            assert made.check(document)


def test_a_stopped_evaluation_does_not_ask_again(model: Any, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    journal, asked, seen = tmp_path / "journal", list[int](), list[Any]()
    generate = type(model).generate

    def counted(self: Any, prompts: list[str], *args: Any) -> Any:
        asked.append(len(prompts))
        return generate(self, prompts, *args)

    monkeypatch.setattr(type(model), "generate", counted)
    with pytest.raises(Cancelled, match="are kept"):
        scored.accuracy(model, seen.append, lambda: any(isinstance(e, Quality) for e in seen), count=16,
                        journal=journal)
    first = scored.accuracy(model, lambda e: None, lambda: False, count=16, journal=journal)
    assert sum(asked) == 16
    assert not journal.exists()
    assert scored.accuracy(model, lambda e: None, lambda: False, count=16).answers == first.answers


def test_the_error_bar_is_never_zero() -> None:
    found = scored.Accuracy(right=8, count=8)
    assert found.se is not None
    assert 0.04 < found.se < 0.08
    half = scored.Accuracy(right=200, count=400)
    assert half.se == pytest.approx(0.025, rel=0.01)
    with pytest.raises(SettingsError, match="too few"):
        scored.accuracy(None, lambda e: None, lambda: False, count=0)  # type: ignore[arg-type]
