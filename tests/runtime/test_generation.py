"""The loop on a real model: equality of every way to decode, ends, batches, events."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.errors import Cancelled, SettingsError
from workbench.events import Draft, Effective, Memory, Phase, RunStarted, Token


def of(events: list[Any], kind: type) -> list[Any]:
    return [e for e in events if isinstance(e, kind)]


def test_matches_transformers_generate(model: Any, settings: Any, generate: Any) -> None:
    """Our loop, masks and cache against transformers' own generation on the same weights."""
    import copy

    import torch
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(model.loaded.model.config)  # it remembers which attention runs
    other = AutoModelForCausalLM.from_config(config, dtype=torch.float32,
                                             attn_implementation="eager")
    state = {n.replace(".weight", "") + ".weight": p for n, p in
             model.loaded.model.named_parameters()}
    other.load_state_dict({n: state[n] for n, _ in other.named_parameters()})
    for prompt in ("def add(a, b):", "the cat sat", "é"):
        ids = model.encode(prompt)
        want = other.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False,
                              pad_token_id=0)[0, len(ids):].tolist()
        out, _ = generate(prompt)
        assert out.tokens[0] == want


@pytest.mark.parametrize("decoding", [
    {"decoding": "prompt_lookup"},
    {"decoding": "prompt_lookup", "decoding__ngram": 1, "decoding__span": 24},
    {"decoding": "draft_model", "draft": "small"},
    {"decoding": "draft_model", "draft": "small", "decoding__gamma": 1},
    {"decoding": "draft_model", "draft": "small", "decoding__gamma": 32},
    {"decoding": "draft_model", "draft": "same"},
    {"decoding": "draft_model", "draft": "small", "sampling__temperature": 0.9, "seed": 5},
    {"decoding": "prompt_lookup", "sampling__temperature": 0.7, "sampling__top_k": 9},
    {"decoding": "draft_model", "draft": "same", "sampling__temperature": 1.0,
     "sampling__top_p": 0.8},
    {"decoding": "token_recycling"}, {"decoding": "token_recycling", "decoding__nodes": 40},
    {"decoding": "token_recycling", "sampling__temperature": 0.9, "seed": 5},
    {"decoding": "adaptive_tables"},
    {"decoding": "adaptive_tables", "sampling__temperature": 0.8, "sampling__top_k": 9},
    {"decoding": "jacobi"}, {"decoding": "jacobi", "sampling__temperature": 0.7, "seed": 3},
    {"decoding": "speculative_jacobi"}, {"decoding": "input_copy"},
    {"decoding": "input_copy", "sampling__temperature": 0.9},
], ids=str)
def test_speculation_is_token_identical_to_plain(
    decoding: dict[str, Any], generate: Any, prompts: list[str], small_draft: Any, settings: Any,
) -> None:
    changes = dict(decoding)
    sampling = {k: v for k, v in changes.items() if k.startswith(("sampling", "seed"))}
    if "draft" in changes:
        path = small_draft if changes["draft"] == "small" else settings.model.source
        changes["decoding__draft"] = str(path)
        del changes["draft"]
    for prompt in prompts[::3]:
        plain, _ = generate(prompt, **sampling)
        fast, _ = generate(prompt, **changes)
        assert fast.tokens == plain.tokens, prompt
        assert fast.texts == plain.texts


@pytest.fixture(scope="module")
def half(settings: Any) -> Any:
    """The same target in bfloat16, where one differently rounded sum can turn a token."""
    from workbench.runtime import load

    return load(settings.with_(weights="bf16"), lambda event: None)


def test_speculation_in_bfloat16_on_a_cpu_is_token_identical_too(
    half: Any, prompts: list[str], small_draft: Any
) -> None:
    """A row's numbers do not depend on how many rows are computed with it."""
    for prompt in prompts[1::7]:
        texts = []
        for changes in ({}, {"decoding": "prompt_lookup", "decoding.span": 30},
                        {"decoding": "draft_model", "decoding.draft": str(small_draft)}):
            chosen = half.settings.with_({"limits.max_new_tokens": 150, **changes})
            texts.append(half.generate([prompt], chosen, lambda e: None, lambda: False).tokens)
        assert texts[0] == texts[1] == texts[2]


def test_a_perfect_draft_is_always_accepted(generate: Any, settings: Any) -> None:
    """Identical weights: gamma + 1 tokens per target forward, exactly."""
    out, events = generate(decoding="draft_model", decoding__draft=settings.model.source,
                           decoding__gamma=4, limits__max_new_tokens=41,
                           limits__stop_at_eos=False)
    drafts = of(events, Draft)
    assert [d.accepted for d in drafts] == [4] * 8
    assert out.mean_accepted == 5.0
    sources = [t.source for t in of(events, Token)]
    assert sources == ["plain"] + (["draft"] * 4 + ["bonus"]) * 8


def test_a_useless_draft_still_gives_one_token_per_forward(generate: Any, small_draft: Any) -> None:
    out, events = generate(decoding="draft_model", decoding__draft=str(small_draft),
                           decoding__gamma=2)
    assert 1.0 <= out.mean_accepted < 2.0
    assert len(of(events, Token)) == sum(d.emitted for d in of(events, Draft)) + sum(
        p.tokens for p in of(events, Phase) if p.phase in ("prefill", "decode"))


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_length_limit_inside_a_drafted_path(limit: int, generate: Any, settings: Any) -> None:
    plain, _ = generate(limits__max_new_tokens=limit)
    out, events = generate(decoding="draft_model", decoding__draft=settings.model.source,
                           decoding__gamma=16, limits__max_new_tokens=limit)
    assert out.tokens == plain.tokens
    assert len(out.tokens[0]) == limit
    assert all(d.drafted < limit for d in of(events, Draft))
    assert out.ended == ["length"]


def test_end_token_inside_a_drafted_path(generate: Any, settings: Any, model: Any,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = generate(limits__stop_at_eos=False)
    tokens = plain.tokens[0]
    stop = next(t for i, t in enumerate(tokens) if i >= 3 and t not in tokens[:i])
    monkeypatch.setattr(type(model), "stops", lambda self: [stop])
    for changes in ({}, {"decoding": "draft_model", "decoding__draft": settings.model.source,
                         "decoding__gamma": 16}):
        out, events = generate(**changes)
        assert out.tokens[0] == tokens[:tokens.index(stop) + 1]
        assert out.ended == ["eos"]
        assert "".join(t.text for t in of(events, Token)) == out.texts[0]


def test_batch_equals_single(generate: Any, prompts: list[str]) -> None:
    """Left padding and early retirement change no sequence."""
    chosen = prompts[:6]
    for changes in ({}, {"kv": "int8"}):
        single = [generate(p, **changes)[0].tokens[0] for p in chosen]
        both, events = generate(chosen, limits__batch=6, **changes)
        assert both.tokens == single
        for i in range(6):
            assert [t.id for t in of(events, Token) if t.sequence == i] == single[i]


def test_batch_rows_shrink_as_sequences_end(generate: Any, model: Any, prompts: list[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [generate(p, limits__stop_at_eos=False)[0].tokens[0] for p in prompts[:3]]
    stop = plain[1][2]
    monkeypatch.setattr(type(model), "stops", lambda self: [stop])
    out, events = generate(prompts[:3], limits__batch=3)
    for tokens, full in zip(out.tokens, plain, strict=True):
        assert tokens == (full[:full.index(stop) + 1] if stop in full else full)
    assert {p.rows for p in of(events, Phase) if p.phase == "decode"} != {3}


def test_sampled_batch_repeats_with_the_seed(generate: Any, prompts: list[str]) -> None:
    once, _ = generate(prompts[:3], limits__batch=3, sampling__temperature=1.0, seed=3)
    again, _ = generate(prompts[:3], limits__batch=3, sampling__temperature=1.0, seed=3)
    other, _ = generate(prompts[:3], limits__batch=3, sampling__temperature=1.0, seed=4)
    assert once.tokens == again.tokens != other.tokens


def test_long_prefill_in_chunks_changes_nothing(generate: Any, monkeypatch: pytest.MonkeyPatch
                                                ) -> None:
    from workbench.runtime import model as module

    prompt = "abcdefgh " * 30
    whole, _ = generate(prompt)
    monkeypatch.setattr(module, "chunk_rows", lambda model: 32)
    chunked, events = generate(prompt)
    assert chunked.tokens == whole.tokens
    assert len([p for p in of(events, Phase) if p.phase == "prefill"]) == 9
    batch, _ = generate([prompt, "short"], limits__batch=2)
    assert batch.tokens[0] == whole.tokens[0]


def test_events_tell_the_whole_story(generate: Any, settings: Any) -> None:
    out, events = generate(decoding="prompt_lookup")
    assert isinstance(events[0], RunStarted)
    tokens = of(events, Token)
    assert [t.index for t in tokens] == list(range(40))
    assert [t.id for t in tokens] == out.tokens[0]
    assert "".join(t.text for t in tokens) == out.texts[0]
    times = [t.t_s for t in tokens]
    assert times == sorted(times)
    assert {p.phase for p in of(events, Phase)} == {"prefill", "draft", "verify", "decode"} - (
        set() if any(p.phase == "decode" for p in of(events, Phase)) else {"decode"})
    for draft in of(events, Draft):
        assert draft.accepted <= draft.drafted
        assert draft.rows == draft.drafted + 1
        assert len(draft.proposed.split("␟")) == draft.drafted
    assert of(events, Memory)


def test_every_setting_has_an_effective_record(generate: Any, settings: Any) -> None:
    _, events = generate(kv="int8", sampling__top_k=5, decoding="prompt_lookup")
    chosen = settings.with_({"kv": "int8", "sampling.top_k": 5, "decoding": "prompt_lookup"})
    last = {e.path: e for e in of(events, Effective)}
    assert set(chosen.flat()) <= set(last)
    assert "int8" in last["kv"].effective
    assert "mean accepted length" in last["decoding"].effective
    assert not last["sampling.top_k"].honoured  # greedy
    assert "greedy" in last["sampling.top_k"].reason
    assert last["attention"].effective.startswith("scaled_dot_product_attention")
    assert last["limits.max_new_tokens"].effective.startswith("40 new tokens")


def test_cancel_stops_at_once_and_frees_the_cache(model: Any, settings: Any) -> None:
    seen: list[Any] = []
    with pytest.raises(Cancelled):
        model.generate(["abc"], settings, seen.append, lambda: len(of(seen, Token)) >= 3)
    assert len(of(seen, Token)) == 3
    assert model._cache is None
    assert "cancelled" in {e.path: e for e in of(seen, Effective)}["limits.max_new_tokens"].effective


def test_cancel_between_layers_of_a_prefill(model: Any, settings: Any) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2  # the first chunk's own check, then layer 0 passes and layer 1 stops

    with pytest.raises(Cancelled):
        model.generate(["abc"], settings, lambda event: None, cancelled)
    assert asked == 3
    out = model.generate(["abc"], settings, lambda event: None, lambda: False)
    assert len(out.tokens[0]) > 0


@pytest.mark.parametrize(("changes", "words"), [
    ({"limits__max_new_tokens": 5000}, ["exceed the model's 512 positions", "limits.max_new_tokens"]),
    ({"decoding": "draft_model", "decoding__draft": "/nowhere"}, ["no draft model '/nowhere'"]),
])
def test_what_cannot_work_is_one_sentence(changes: dict[str, Any], words: list[str],
                                          generate: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        generate(**changes)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_draft_of_another_vocabulary_or_too_big_is_refused(generate: Any, write_config: Any) -> None:
    with pytest.raises(SettingsError, match="vocabulary has 301 tokens"):
        generate(decoding="draft_model", decoding__draft=str(write_config(vocab_size=301)))
    with pytest.raises(SettingsError, match="bigger than the target"):
        generate(decoding="draft_model", decoding__draft=str(write_config(num_hidden_layers=9)))


def test_auto_draft_is_for_the_bundled_model_only(settings: Any) -> None:
    with pytest.raises(SettingsError, match="draft=auto is known for the bundled model only"):
        settings.with_({"decoding": "draft_model"})


def test_draft_with_fewer_positions_than_the_target(generate: Any, write_config: Any) -> None:
    """Past its own positions the draft proposes nothing, and the text does not change."""
    short = write_config(num_hidden_layers=1, max_position_embeddings=32)
    plain, _ = generate("abcdefghij")
    out, _ = generate("abcdefghij", decoding="draft_model", decoding__draft=str(short))
    assert out.tokens == plain.tokens
