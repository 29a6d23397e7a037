"""The panel of quality: figures with their errors, and no more certainty than they allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.synthetic import plain
from workbench import events as ev
from workbench.panels import panel
from workbench.panels import plain as as_plain
from workbench.settings import Settings
from workbench.store import Run, Store

HOT: dict[str, Any] = {"sampling.temperature": 1.0}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))


def figures(kl: float, se: float, ppl: float = 20.0, done: bool = True, **more: float) -> list[ev.Event]:
    rows = {"perplexity": (ppl, 1.0), "kl_mean": (kl, se), "top1": (0.95, 0.004), **{k: (v, None) for k, v in
                                                                                     more.items()}}
    return [ev.Quality(metric=m, value=v, se=e, tokens=900, against="bf16", done=done)
            for m, (v, e) in rows.items()]


def run(events: list[ev.Event], label: str = "int4", prompt: str = "p", text: str = "word ",
        **changes: Any) -> Run:
    writer = Store().record(requested=Settings().with_({"quality.level": "quick", **changes}), prompt=prompt,
                            label=label)
    writer.add([*plain(6, text=text), *events])
    return writer.finish(status="done")


def said(one: Run, base: Run | None = None) -> Any:
    content = panel("quality").content(one, base)
    json.dumps(as_plain(content), allow_nan=False)
    return content


def test_what_is_lost_and_where_to_look_further() -> None:
    content = said(run(figures(0.011, 0.0003, kl_p99=0.06)))
    assert "0.011 ± 0.0003 nats per token against bf16" in content.sentences[0]
    assert "one token in a hundred loses 0.06" in content.sentences[0]
    assert "another one in 5 % of the places" in " ".join(content.sentences)
    assert content.tables[0].rows[1][2:] == [0.011, 0.0003]
    assert content.actions[0].changes == {"quality.level": "full"}
    assert not said(run(figures(0.011, 0.0003), **{"quality.level": "full"})).actions


@pytest.mark.parametrize(("kl", "words"), [(0.0112, "do not tell them apart"), (0.008, "more, beyond")])
def test_error_bars_decide_whether_two_runs_differ(kl: float, words: str) -> None:
    content = said(run(figures(0.011, 0.0003)), run(figures(kl, 0.0004), "other"))
    sentence = next(s for s in content.sentences if "loses" in s and "other" in s)
    assert words in sentence
    whole = " ".join(content.sentences)
    assert "perplexity 20 ± 1, other 20 ± 1: the error bars do not tell them apart" in whole
    assert len(content.tables[0].columns) == 6


def test_a_loss_within_its_error_and_an_unfinished_evaluation_are_said() -> None:
    content = said(run(figures(0.0001, 0.0002, done=False)))
    assert "within its own error" in content.sentences[1]
    assert "not finished: these figures are of 900 tokens" in content.sentences[-1]


def test_texts_are_compared_only_where_that_means_something() -> None:
    base = run([], "base")
    assert "identical" in said(run(figures(0.1, 0.01)), base).sentences[-1]
    parts = said(run(figures(0.1, 0.01), text="other "), base).sentences[-1]
    assert "part at" in parts
    assert "sampled" in said(run(figures(0.1, 0.01), **HOT), base).sentences[-1]
    assert "part" not in said(run(figures(0.1, 0.01), prompt="q", text="other "), base).sentences[-1]


def test_without_figures_it_says_how_to_get_them() -> None:
    content = said(run([]))
    assert "quality=quick" in content.empty
    assert content.actions[0].changes == {"quality.level": "quick"}
    assert "identical" in said(run([]), run([], "base")).empty
