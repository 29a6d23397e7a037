"""Tasks of our own through the real lm-eval, with data in files, on a bundled model.

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
import torch

from workbench import zoo
from workbench.errors import Cancelled, MissingDependency, SettingsError
from workbench.events import Progress, Quality
from workbench.quality.lm_eval import BOOTSTRAP, Score, Task, paired
from workbench.settings import Settings

needs = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None,
                           reason="pip install 'inference-workbench[lm-eval]'")
_CHOICE = """
task: wb_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.5}}
"""
_TEXT = """
task: wb_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{said}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""
_ROLLING = """
task: wb_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{document}}}}"
metric_list:
  - {{metric: word_perplexity}}
  - {{metric: bits_per_byte}}
metadata: {{version: 3.0}}
"""
_CLOZE = """
task: wb_cloze
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
_GROUP = """
group: wb_group
task: [wb_choice, wb_text]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: true}
metadata: {version: 1.0}
"""
_LOST = """
task: wb_lost
dataset_path: nobody/there_is_no_such_data_set
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
"""
SETTINGS = Settings().with_({"model.source": "wb-1m", "weights": "fp32", "compute.threads": 1})


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("home")
    patch.setenv("WORKBENCH_HOME", str(folder))
    if importlib.util.find_spec("datasets"):
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def model() -> Any:
    from workbench.runtime import load

    return load(SETTINGS, lambda event: None)


@pytest.fixture(scope="module")
def judge() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = zoo.path("wb-1m")
    return (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, judge: Any) -> Path:
    """Task files and their data: 12 questions with three choices, a few of them long."""
    folder = tmp_path_factory.mktemp("tasks")
    texts = [d.text.replace("\n", " ") for d in zoo.evaluation_text()]
    chooser = random.Random(5)
    docs = []
    for i in range(12):
        text = texts[i % len(texts)]
        at = 40 + 300 * (i % 3) + i
        right = text[at:at + 12]
        choices = [c.strip() for c in (right, texts[(i + 1) % len(texts)][at:at + 9], "zzz qq")]
        answer = chooser.randrange(3)
        choices[0], choices[answer] = choices[answer], choices[0]
        docs.append({"question": text[:at].strip(), "choices": choices, "answer": answer,
                     "said": _said(judge, text[:at].strip()) if i % 2 else "never said"})
    _write(folder / "choice.jsonl", docs)
    _write(folder / "rolling.jsonl", [{"document": d.text[:700]} for d in zoo.evaluation_text()[:3]])
    for name, text in (("choice", _CHOICE), ("text", _TEXT), ("cloze", _CLOZE), ("rolling", _ROLLING)):
        data = folder / ("rolling.jsonl" if name == "rolling" else "choice.jsonl")
        (folder / f"{name}.yaml").write_text(text.format(data=data))
    (folder / "group.yaml").write_text(_GROUP)
    (folder / "lost.yaml").write_text(_LOST)
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def _said(judge: Any, question: str) -> str:
    """The first line of 24 greedy tokens, by transformers alone."""
    network, tokenizer = judge
    ids = tokenizer(question)["input_ids"]
    said = list(ids)
    with torch.inference_mode():
        for _ in range(24):
            said.append(int(network(torch.tensor([said]), use_cache=False).logits[0, -1].argmax()))
            if said[-1] == tokenizer.eos_token_id:
                said.pop()
                break
    return str(tokenizer.decode(said[len(ids):])).split("\n")[0]


def _likelihood(judge: Any, context: str, continuation: str) -> float:
    network, tokenizer = judge
    before = tokenizer(context)["input_ids"] if context else [tokenizer.bos_token_id]
    after = tokenizer(context + continuation)["input_ids"][len(before) if context else 0:]
    whole = before + after  # lm-eval's rule where a token would span the border
    with torch.inference_mode():
        logits = network(torch.tensor([whole[:-1]]), use_cache=False).logits[0].log_softmax(-1)
    return float(sum(logits[i - 1, whole[i]] for i in range(len(before), len(whole))))


def measure(task: Task, model: Any, **options: Any) -> tuple[list[Any], list[Any]]:
    events: list[Any] = []
    scores = task.measure(model, options.pop("settings", model.settings), events.append,
                          options.pop("cancelled", lambda: False), **options)
    return scores, events


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


def test_without_lm_eval_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    before = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "lm_eval" else before(n, *a))
    with pytest.raises(MissingDependency, match=r"pip install 'inference-workbench\[lm-eval\]'"):
        Task("arc_easy")


@needs
def test_choices_are_the_ones_that_transformers_finds_likelier(model: Any, judge: Any, folder: Path) -> None:
    scores, events = measure(Task("lm_eval:wb_choice", folder=folder), model)
    docs = [json.loads(line) for line in (folder / "choice.jsonl").read_text().splitlines()]
    values = [[_likelihood(judge, d["question"], " " + c) for c in d["choices"]] for d in docs]
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
        [_likelihood(judge, "The cat sat on the", " mat") if p[1] == "mat" else _likelihood(judge, *p)
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
    nll = -sum(_likelihood(judge, "", d) for d in docs)
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
    values = [_likelihood(judge, d["question"], d["choices"][0]) for d in docs]
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
    monkeypatch.setattr(Live, "told", lambda self, r, a: (asked.append(r.args[0]), before(self, r, a)))
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


@needs
def test_a_stopped_task_goes_on(model: Any, folder: Path, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.quality.lm_eval_scoring import Scorer

    task, journal = Task("wb_choice", folder=folder), tmp_path / "deep" / "task"
    whole, _ = measure(task, model)
    answered = 0
    before = Scorer.score

    def counted(self: Scorer, *args: Any) -> Any:
        nonlocal answered
        answered += 1
        return before(self, *args)

    monkeypatch.setattr(Scorer, "score", counted)
    with pytest.raises(Cancelled, match="9 responses are kept"):
        measure(task, model, journal=journal, cancelled=lambda: answered >= 10)
    assert len(journal.read_text().splitlines()) == 10
    with journal.open("a") as file:
        file.write('["half a li')
    answered = 0
    again, _ = measure(task, model, journal=journal)
    assert answered == 36 - 9
    assert again == whole
    assert not journal.exists()


@needs
def test_what_the_models_positions_took_away_is_said(model: Any, folder: Path, tmp_path: Path) -> None:
    """Also of responses that were kept from a stopped evaluation."""
    texts = "".join(d.text.replace("\n", " ") for d in zoo.evaluation_text())
    rows = [{"question": texts[i:i + (9000 if i < 2 else 50)].strip(), "choices": ["one", "two"], "answer": 0}
            for i in range(5)]
    _write(tmp_path / "long.jsonl", rows)
    (tmp_path / "long.yaml").write_text(_CHOICE.format(data=tmp_path / "long.jsonl"))
    task, journal = Task("wb_choice", folder=tmp_path), tmp_path / "journal"
    seen: list[Any] = []
    with pytest.raises(Cancelled):
        task.measure(model, model.settings, seen.append, lambda: len(seen) > 12, journal=journal)
    scores, _ = measure(task, model, journal=journal)
    assert scores[0].note == (f"4 requests were longer than the model's {model.forward.max_positions} "
                              "positions and lost their beginning")
    assert measure(Task("wb_choice", folder=folder), model)[0][0].note == ""


@needs
def test_mistakes_are_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="limit=0 is too small"):
        Task("wb_choice", limit=0)
    with pytest.raises(SettingsError, match="there is no task file"):
        Task(str(folder / "absent.yaml")).open()
    with pytest.raises(SettingsError, match="is not a folder"):
        Task("wb_choice", folder=folder / "absent").open()
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match="the data of wb_lost is not on this machine"):
        Task("wb_lost", folder=folder).open()
    (tmp_path / "unsafe.yaml").write_text(_CHOICE.format(data=folder / "choice.jsonl").replace(
        "wb_choice", "wb_unsafe") + "unsafe_code: true\n")
    with pytest.raises(SettingsError, match="wb_unsafe runs code"):
        Task("wb_unsafe", folder=tmp_path).open()
    (tmp_path / "broken.yaml").write_text("task: wb_broken\noutput_type: nonsense\ndataset_path: json\n")
    with pytest.raises(SettingsError, match=r"wb_broken cannot be (opened|evaluated)"):
        Task("wb_broken", folder=tmp_path).open()


@needs
def test_an_unknown_task_names_its_neighbours(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"did you mean .*arc_easy"):
        Task("arc_eazy", folder=folder).open()


@needs
def test_the_command_puts_it_beside_the_other_figures(folder: Path, capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.cli import run_command

    base = ["evaluate", "int4(group=128)", "-m", "wb-1m", "--tasks", "0", "--threads", "1"]
    extra = ["--task", "lm_eval:wb_choice", "--task-folder", str(folder), "--limit", "6"]
    assert run_command([*base, *extra, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [r["scheme"] for r in rows] == ["bf16", "int4(group=128)"]
    scores = [next(iter(r["scores"].values())) for r in rows]
    assert [[s["metric"] for s in row] for row in scores] == [["acc", "acc_norm"]] * 2
    assert all(s["count"] == 6 and s["original"] == 12 and s["version"] == "1.5" for r in scores for s in r)
    assert "4" in scores[1][0]["weights"]
    assert "4" not in scores[0][0]["weights"].split(" matrices", 1)[1]
    with monkeypatch.context() as patch:  # both rows are kept: nothing is opened again
        patch.setattr("workbench.backends.open_model", None)
        assert run_command([*base, *extra]) == 0
    shown = capsys.readouterr().out
    assert "wb_choice acc" in " ".join(shown.split())
    assert f"{scores[1][0]['value']:.3g} ± {scores[1][0]['se']:.2g}" in shown
    apart = statistics.fmean([b - a for a, b in zip(*(r[0]["values"] for r in scores), strict=True)])
    assert f"({apart:+.2g} ± " in " ".join(shown.split())
    assert "wb_choice: 6 of 12 documents, version 1.5, 0 examples, lm-eval" in shown


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    from workbench.cli import run_command

    assert run_command(["evaluate", "-m", "wb-1m", "--limit", "5"]) == 2
    assert "--task lm_eval:NAME" in capsys.readouterr().err
    assert run_command(["evaluate", "-m", "wb-1m", "--task", "arc_easy"]) == 2
    assert "try --task lm_eval:arc_easy" in capsys.readouterr().err
