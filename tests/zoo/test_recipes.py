"""The training code, end to end, at toy size, on text that every Python carries."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import zoo
from workbench.zoo.recipes import corpus, distill, publish, tasks, tokenizer, train
from workbench.zoo.recipes.recipe import TINY, Recipe

#: Tokens of the toy tokenizer; training it on 4096 would take longer than the toy itself.
_VOCAB = 600


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer and packed streams of a small part of the standard library."""
    folder = tmp_path_factory.mktemp("streams")
    domains = {"code": corpus.code()[:40], "docs": corpus.docs()[:60]}
    domains["gen"] = tasks.documents(1, 500, corpus.paragraphs(domains["docs"]))
    trained = tokenizer.train(tokenizer.sample(domains, scale=0.05), vocab=_VOCAB)
    tokenizer.save(trained, folder)
    for name, documents in domains.items():
        np.save(folder / f"{name}.npy", tokenizer.pack(trained, [d[:4000] for d in documents]))
    return folder


def _run(out: Path, streams: Path, stop: int | None = None, recipe: Recipe = TINY):
    loaded = train.load_streams(streams, recipe.mix)
    return train.train(recipe, loaded, out, threads=1, stop=stop, compiled=False, save_every=4)


def test_loss_falls_and_a_resumed_run_equals_an_uninterrupted_one(
        streams: Path, tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole", streams).state_dict()
    _run(tmp_path / "parts", streams, stop=9)
    parts = _run(tmp_path / "parts", streams).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    lines = publish.thinned(tmp_path / "whole" / "log.jsonl").splitlines()
    assert len(lines) == 2  # step 20 and the last
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert losses[1] < losses[0] < np.log(4096) - 0.5


def test_another_seed_gives_other_data_and_other_weights(streams: Path, tmp_path: Path) -> None:
    loaded = train.load_streams(streams, TINY.mix)
    first = train.batch(TINY, loaded, 3)
    assert torch.equal(first, train.batch(TINY, loaded, 3))
    assert not torch.equal(first, train.batch(TINY, loaded, 4))
    assert not torch.equal(first, train.batch(replace(TINY, data_seed=9), loaded, 3))
    weights = [train.new_model(replace(TINY, seed=s)).lm_head.weight for s in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_rex_decay() -> None:
    assert train.rate(0, 100, 1) == 1
    assert train.rate(50, 100, 1) == pytest.approx(2 / 3)
    assert train.rate(100, 100, 1) == 0
    assert train.rate(0, 1000, 10) == pytest.approx(0.1)


def test_distillation_lowers_the_divergence(streams: Path, tmp_path: Path) -> None:
    teacher = _run(tmp_path / "teacher", streams)
    loaded = train.load_streams(streams, TINY.mix)
    recipe = replace(TINY, steps=20, seed=77)
    student = train.new_model(recipe)
    windows = train.batch(recipe, loaded, 1000)
    loss = distill.divergence(teacher)
    before = loss(student)(windows).item()
    assert loss(teacher)(windows).item() == pytest.approx(0, abs=1e-6)
    trained = train.train(recipe, loaded, tmp_path / "kd", threads=1, compiled=False,
                          start_from=student.state_dict(), make_loss=loss)
    assert loss(trained)(windows).item() < 0.9 * before


def test_publishing_writes_a_folder_that_transformers_opens(streams: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = train.new_model(TINY)
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 20, "loss": 9}\n{"step": 20, "loss": 2}\n{"step": 40, "loss": 1}\n')
    publish.publish(model, streams, tmp_path / "model", {"recipe": TINY.to_dict()}, log)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.model.norm.weight, model.model.norm.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").bos_token_id == tokenizer.BOS
    assert '"loss": 9' not in (tmp_path / "model" / "training_log.jsonl").read_text()


def test_held_out_text_is_not_in_the_corpus() -> None:
    documents = corpus.code()
    assert len(documents) > 300
    for held in zoo.held_out_modules():
        assert not any(held.text[:500] in text for text in documents), held.id


@pytest.mark.parametrize("make", [tasks.arithmetic, tasks.lists])
def test_task_answers_are_right_and_a_wrong_answer_is_noticed(make) -> None:
    r = random.Random(3)
    for _ in range(300):
        document = make(r)
        assert tasks.check(document), document
        assert not tasks.check(document + "1"), document


def test_tasks_are_a_pure_function_of_their_seed() -> None:
    bank = ["A paragraph about a river and a stone, long enough to be repeated here in full."]
    assert tasks.documents(5, 50, bank) == tasks.documents(5, 50, bank)
    assert tasks.documents(5, 50, bank) != tasks.documents(6, 50, bank)
    kinds = {tasks.split(d)[0][:12] for d in tasks.documents(5, 300, bank)}
    assert {"User: Repeat", "Compute step"} <= kinds


def test_copy_edit_replaces_the_word_everywhere() -> None:
    r = random.Random(0)
    bank = ["the river ran by the river house and nobody saw the river again that year at all"]
    edited = [d for d in (tasks.copy_edit(r, bank) for _ in range(60)) if 'word "river"' in d]
    assert edited
    for document in edited:
        prompt, answer = tasks.split(document)
        new = prompt.split('with "')[1].split('"')[0]
        assert answer.strip() == bank[0].replace("river", new)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.one_of(st.characters(exclude_categories=["Cs"]),
                                  st.sampled_from(string.whitespace + "0123456789 ."))))
def test_tokenizer_round_trip(text: str) -> None:
    loaded = _bundled_tokenizer()
    ids = loaded(text, add_special_tokens=False)["input_ids"]
    assert loaded.decode(ids, clean_up_tokenization_spaces=False) == text


def test_digits_are_single_tokens() -> None:
    loaded = _bundled_tokenizer()
    assert [loaded.decode([i]) for i in loaded("2024")["input_ids"]] == list("2024")


def _bundled_tokenizer(cache: dict = {}):  # noqa: B006 - loaded once for all examples
    from transformers import AutoTokenizer

    if not cache:
        cache["it"] = AutoTokenizer.from_pretrained(zoo.path(zoo.DEFAULT))
    return cache["it"]
