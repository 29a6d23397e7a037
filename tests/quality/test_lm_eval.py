"""Tasks of our own through the real lm-eval, with data in files, on a bundled model: the figures.

Most of them need lm-eval: pip install -e '.[lm-eval]' (and accelerate, for lm-eval's own model)."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.quality.lm_eval_data import SETTINGS, likelihood, measure, needs
from workbench import zoo
from workbench.errors import SettingsError
from workbench.events import Progress, Quality
from workbench.quality.lm_eval import BOOTSTRAP, Score, Task, paired


def _score(values: list[float]) -> Score:
    return Score("t", "acc", "none", statistics.fmean(values), None, len(values), 9, "1", 0, True, "bf16",
                 "0", values=values)


def test_differences_are_of_the_same_documents() -> None:
    """One of twenty answers differs: the difference is known far better than each figure."""
    first, second = [1.0, 0.0] * 10, [0.0, 0.0, *[1.0, 0.0] * 9]
    apart = paired(_score(second), _score(first))
    assert apart == (pytest.approx(-0.05), pytest.approx(0.05))
    assert apart is not None
    assert apart[1] < statistics.stdev(first) / 20 ** 0.5 / 2
    assert paired(_score(first), _score(first)) == (0.0, 0.0)
    assert paired(_score(first), _score(first[:4])) is None
    assert paired(_score([1.0]), _score([1.0])) is None


@needs
def test_choices_are_the_ones_that_transformers_finds_likelier(model: Any, judge: Any, folder: Path) -> None:
    scores, events = measure(Task("lm_eval:wb_choice", folder=folder), model)
    docs = [json.loads(line) for line in (folder / "choice.jsonl").read_text().splitlines()]
    values = [[likelihood(judge, d["question"], " " + c) for c in d["choices"]] for d in docs]
    right = [v.index(max(v)) == d["answer"] for v, d in zip(values, docs, strict=True)]
    acc = next(s for s in scores if s.metric == "acc")
    assert acc.value == pytest.approx(sum(right) / len(right))
    assert 0 < acc.value < 1
    p = acc.value
    assert acc.se == pytest.approx((p * (1 - p) / 11) ** 0.5)
    assert (acc.count, acc.original, acc.version, acc.fewshot) == (12, 12, "1.5", 0)
    assert acc.higher_is_better is True
    assert "32" in acc.weights
    assert acc.values == [float(r) for r in right]
    partial = [e for e in events if isinstance(e, Quality) and not e.done and e.metric == "wb_choice acc"]
    assert [e.tokens for e in partial] == list(range(1, 13))
    assert partial[-1].value == pytest.approx(acc.value)
    assert partial[-1].se == pytest.approx(acc.se)
    progress = [e for e in events if isinstance(e, Progress) and e.what == "wb_choice"]
    assert progress[-1].done == progress[-1].total == 36


@needs
def test_responses_are_likelihoods_by_hand(model: Any, judge: Any, folder: Path) -> None:
    from lm_eval.api.instance import Instance

    from workbench.quality.lm_eval_journal import Responses
    from workbench.quality.lm_eval_model import WorkbenchLM

    lm = WorkbenchLM(model, model.settings, lambda: False, Responses(None, ""), lambda r, a: None)
    pairs = [("def add(a, b):\n    return a", " + b"), ("The cat sat on the ", "mat"),
             ("", "Once upon a time")]
    found = lm.loglikelihood([Instance("loglikelihood", {}, p, 0) for p in pairs])
    assert [v for v, _ in found] == pytest.approx(
        [likelihood(judge, "The cat sat on the", " mat") if p[1] == "mat" else likelihood(judge, *p)
         for p in pairs], abs=1e-3)


@needs
def test_texts_are_the_greedy_ones(model: Any, folder: Path) -> None:
    scores, _ = measure(Task("wb_text", folder=folder), model)
    assert [(s.metric, s.count, s.version) for s in scores] == [("exact_match", 12, "2.0")]
    assert scores[0].value == pytest.approx(0.5)


@needs
def test_rolling_perplexity_is_torchs(model: Any, judge: Any, folder: Path) -> None:
    scores, _ = measure(Task(str(folder / "rolling.yaml")), model)
    docs = [json.loads(line)["document"] for line in (folder / "rolling.jsonl").read_text().splitlines()]
    nll = -sum(likelihood(judge, "", d) for d in docs)
    want = nll / sum(len(d.encode()) for d in docs) / 0.6931471805599453
    found = {s.metric: s for s in scores}
    assert found["bits_per_byte"].value == pytest.approx(want, rel=1e-4)
    assert found["word_perplexity"].se is None  # lm-eval has no error for it
    assert found["bits_per_byte"].higher_is_better is False


@needs
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="lm-eval's own needs accelerate")
@pytest.mark.parametrize("name", ["wb_choice", "wb_text", "wb_rolling"])
def test_figures_are_those_of_lm_evals_own_model(name: str, model: Any, folder: Path) -> None:
    """The same tasks through ``HFLM``: transformers in float32, as lm-eval drives it."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(zoo.path("wb-1m")), dtype="float32", device="cpu", batch_size=1)
    task = Task(name, folder=folder)
    results = evaluate(lm=theirs, task_dict=task.open(), log_samples=False)["results"][name]
    scores, _ = measure(task, model)
    assert scores
    for score in scores:
        assert score.value == pytest.approx(results[f"{score.metric},{score.filter}"], rel=1e-5)
        se = results[f"{score.metric}_stderr,{score.filter}"]
        assert score.se == (pytest.approx(se) if isinstance(se, float) else None)


@needs
def test_a_cloze_has_a_bootstrapped_error_and_prints_nothing(
        model: Any, judge: Any, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scores, events = measure(Task("wb_cloze", folder=folder), model)
    docs = [json.loads(line) for line in (folder / "choice.jsonl").read_text().splitlines()]
    values = [likelihood(judge, d["question"], d["choices"][0]) for d in docs]
    found = {s.metric: s for s in scores}
    assert found["perplexity"].value == pytest.approx(math.exp(-statistics.mean(values)), rel=1e-3)
    draw = random.Random(0)
    draws = [math.exp(-statistics.mean(draw.choices(values, k=len(values)))) for _ in range(BOOTSTRAP)]
    assert found["perplexity"].se == pytest.approx(statistics.stdev(draws), rel=1e-2)
    assert found["perplexity"].version == ""  # the file says none
    final = {e.metric: e.value for e in events if isinstance(e, Quality) and e.done}
    assert final == {s.name: s.value for s in scores}
    assert capfd.readouterr() == ("", "")


@needs
def test_a_group_has_its_own_row_and_its_members(model: Any, folder: Path) -> None:
    scores, _ = measure(Task("wb_group", limit=3, folder=folder), model)  # not lm-eval's 14,000 names
    assert [(s.task, s.metric, s.within) for s in scores if s.task == "wb_group"] == [("wb_group", "acc", "")]
    assert {s.task for s in scores if s.within == "wb_group"} == {"wb_choice", "wb_text"}
    assert all((s.count, s.original) == (3, 12) for s in scores if s.within)


@needs
def test_coarser_settings_are_what_is_measured(folder: Path, model: Any) -> None:
    """Two-bit weights and a two-bit cache give other responses than the untouched model."""
    from workbench.runtime import load

    task = Task("wb_rolling", folder=folder)
    whole = measure(task, model)[0][0]
    cache = measure(task, model, settings=model.settings.with_({"kv": "kivi(bits=2)"}))[0][0]
    coarse = load(SETTINGS.with_({"weights": "int4"}), lambda event: None)
    try:
        weights = measure(task, coarse)[0][0]
    finally:
        coarse.close()
    assert len({round(s.value, 6) for s in (whole, cache, weights)}) == 3
    assert weights.value > whole.value
    assert "int4" in weights.weights.lower() or "4" in weights.weights


@needs
def test_examples_and_chats_are_in_the_prompt(model: Any, folder: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.quality.lm_eval_run import Live

    asked: list[str] = []
    before = Live.told

    def told(self: Live, request: Any, response: Any) -> None:
        asked.append(request.args[0])
        before(self, request, response)

    monkeypatch.setattr(Live, "told", told)
    docs = [json.loads(line) for line in (folder / "choice.jsonl").read_text().splitlines()]
    scores, _ = measure(Task("wb_choice", limit=2, fewshot=2, folder=folder), model)
    assert (scores[0].fewshot, scores[0].count) == (2, 2)
    for prompt, doc in zip(asked[::3], docs, strict=False):
        assert prompt.endswith(doc["question"])
        assert prompt.count("\n\n") == 2  # behind each example
    again = list(asked)
    asked.clear()
    measure(Task("wb_choice", limit=2, fewshot=2, folder=folder), model)
    assert asked == again  # the same examples every time
    with pytest.raises(SettingsError, match="no chat template"):
        measure(Task("wb_choice", limit=1, chat=True, folder=folder), model)
    template = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
                "{% if add_generation_prompt %}<answer>{% endif %}")
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    asked.clear()
    measure(Task("wb_choice", limit=1, chat=True, folder=folder), model)
    assert asked[0] == f"<user>{docs[0]['question']}<answer>"


@needs
def test_another_engine_answers_too(model: Any, folder: Path) -> None:
    from workbench.backends import open_model

    peer = open_model(SETTINGS.with_({"backend": "transformers"}), lambda event: None)
    try:
        for name in ("wb_choice", "wb_text", "wb_rolling"):
            theirs, ours = (measure(Task(name, folder=folder), m)[0] for m in (peer, model))
            assert [s.value for s in theirs] == pytest.approx([s.value for s in ours], rel=1e-4)
        assert "torch.nn.Linear" in theirs[0].weights
    finally:
        peer.close()
