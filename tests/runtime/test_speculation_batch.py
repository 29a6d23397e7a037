"""Speculation for several sequences: each one's text is plain decoding's alone, its events are its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runtime.batches import SAMPLED as _SAMPLED
from tests.runtime.batches import SCHEDULES as _SCHEDULES
from tests.runtime.batches import kinds, run
from workbench.events import Draft, Effective, Phase, Token
from workbench.runtime import load, native_library
from workbench.settings import Settings

_METHODS = ("draft_model", "prompt_lookup", "token_recycling", "adaptive_tables", "jacobi",
            "speculative_jacobi", "input_copy")


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("method", _METHODS)
def test_each_sequence_is_plain_decoding_alone(bundled: Any, alone: Any, weights: str, method: str) -> None:
    settings, model = bundled(weights)
    for count in (1, 3, 8):
        out, _ = run(model, settings, kinds(count), decoding=method, **{"decoding.fallback": False})
        assert out.tokens == alone(weights)[:count]


@pytest.mark.parametrize("schedule", ["equal", "grouped"])
@pytest.mark.parametrize("method", ["draft_model", "prompt_lookup", "token_recycling"])
def test_schedules_give_the_same_text(bundled: Any, alone: Any, schedule: str, method: str) -> None:
    settings, model = bundled("fp32")
    out, events = run(model, settings, kinds(8), decoding=method, **{
        "decoding.schedule": schedule, "decoding.fallback": False})
    assert out.tokens == alone("fp32")
    told = [e for e in events if isinstance(e, Effective) and e.path == "decoding.schedule"][-1]
    assert told.effective.startswith(schedule)
    assert told.honoured


@pytest.mark.skipif(not native_library.available(), reason=native_library.why_not())
@pytest.mark.parametrize("schedule", _SCHEDULES)
def test_more_rows_than_one_forward_takes(bundled: Any, alone: Any, schedule: str) -> None:
    """Eight trees of 80 nodes are computed in several forwards of the executor."""
    settings, model = bundled("bf16")
    out, _ = run(model, settings, kinds(8), decoding="token_recycling", **{
        "decoding.nodes": 80, "decoding.fallback": False, "decoding.schedule": schedule})
    assert out.tokens == alone("bf16")


# -- sampled -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["draft_model", "prompt_lookup", "token_recycling", "jacobi"])
@pytest.mark.parametrize("schedule", _SCHEDULES)
def test_a_seed_gives_the_text_of_plain_decoding(bundled: Any, method: str, schedule: str) -> None:
    settings, model = bundled("fp32")
    plain, _ = run(model, settings, kinds(4), **_SAMPLED)
    out, _ = run(model, settings, kinds(4), decoding=method, **_SAMPLED, **{"decoding.schedule": schedule})
    assert out.tokens == plain.tokens
    assert len({tuple(t) for t in out.tokens}) == 4


@pytest.mark.parametrize(("method", "rule"), [("draft_model", {"decoding.rule": "ratio"}),
                                              ("speculative_jacobi", {})])
def test_weighing_rules_do_not_see_the_company(bundled: Any, method: str, rule: dict[str, Any]) -> None:
    """What is drafted for a sequence, and so its text, is the same in any batch and schedule."""
    settings, model = bundled("fp32")
    many, _ = run(model, settings, kinds(5), decoding=method, **rule, **_SAMPLED)
    few, _ = run(model, settings, kinds(2), decoding=method, **rule, **_SAMPLED)
    one, _ = run(model, settings, kinds(1), decoding=method, **rule, **_SAMPLED)
    equal, _ = run(model, settings, kinds(5), decoding=method, **rule, **_SAMPLED,
                   **{"decoding.schedule": "equal"})
    assert few.tokens == many.tokens[:2]
    assert one.tokens == many.tokens[:1]
    assert equal.tokens == many.tokens


def test_the_weighing_rule_has_the_targets_distribution_in_a_batch(generate: Any, small_draft: Path) -> None:
    """320 texts of two tokens, by ratio in batches and by plain sampling: second tokens alike."""
    counts: list[Counter[int]] = []
    ratio = {"decoding": "draft_model", "decoding__draft": str(small_draft), "decoding__rule": "ratio"}
    for changes in (ratio, {"decoding": "plain"}):
        found: Counter[int] = Counter()
        for seed in range(20):
            out, _ = generate(["def add"] * 16, **changes, seed=seed + 1000 * len(counts), limits__batch=16,
                              limits__max_new_tokens=3, sampling__temperature=1.0, sampling__top_k=3)
            found.update(t[1] for t in out.tokens)
        counts.append(found)
    ours, plain = counts
    tokens = [t for t in ours | plain if ours[t] + plain[t] >= 10]
    chi = sum((ours[t] - plain[t]) ** 2 / (ours[t] + plain[t]) for t in tokens)
    free = len(tokens) - 1
    assert free >= 2
    assert chi < free + 4 * (2 * free) ** 0.5


# -- the cache -----------------------------------------------------------------------------------------


def held(cache: Any, slot: int, first: int, count: int) -> list[torch.Tensor]:
    return [b[slot, :, first:first + count].clone() for layer in cache.parts for b in layer.buffers()]


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("kv", ["full", "int8"])
@pytest.mark.parametrize("schedule", _SCHEDULES)
def test_after_rollbacks_the_cache_is_a_fresh_prefill(
    bundled: Any, monkeypatch: pytest.MonkeyPatch, weights: str, kv: str, schedule: str
) -> None:
    """Trees, so that accepted rows are not neighbours; looked at when the first sequence is half done."""
    from workbench.runtime.speculation import SpeculativeLoop

    settings, model = bundled(weights)
    settings = settings.with_({"kv": kv})
    seen: list[tuple[list[int], list[torch.Tensor]]] = []
    real = SpeculativeLoop.settle

    def settle(self: Any, *args: Any) -> None:
        real(self, *args)
        if self.step == 6:
            seen.extend((s.ids[:-1], held(self.cache, i, self.pads[i], len(s.ids) - 1))
                        for i, s in enumerate(self.active) if not s.ended)

    monkeypatch.setattr(SpeculativeLoop, "settle", settle)
    out, _ = run(model, settings, kinds(3), decoding="token_recycling", **{
        "decoding.fallback": False, "decoding.schedule": schedule})
    assert out.accepted > 0
    assert seen
    for ids, buffers in seen:
        fresh = model.cache(settings, 1, len(ids) + 1)
        masks = model.forward.masks([0], fresh.capacity)
        with torch.inference_mode():
            places = torch.arange(len(ids))[None]
            model.forward(torch.tensor([ids]), places, masks.rows(0, len(ids)), fresh, 1)
        exact = model.forward.executor is not None and schedule == "ragged"
        for ours, theirs in zip(buffers, held(fresh, 0, 0, len(ids)), strict=True):
            if exact:
                assert torch.equal(ours, theirs)
            else:  # other row counts and columns round differently; int8 by one step at most
                near = 1.01 if ours.dtype == torch.int8 else 0.03 if weights == "bf16" else 2e-3
                assert float((ours.float() - theirs.float()).abs().max()) <= near * max(
                    1.0, float(theirs.float().abs().max()) / 4)


@pytest.mark.parametrize("method", ["token_recycling", "prompt_lookup"])
def test_packed_caches_are_kept_one_by_one(generate: Any, prompts: list[str], method: str) -> None:
    """KIVI packs a whole sequence's tokens in groups, so nothing of it can be moved."""
    options = {"kv": "kivi", "limits__batch": 3, "limits__max_new_tokens": 60}
    plain, _ = generate(prompts[10:13], **options)
    for schedule in _SCHEDULES:
        out, events = generate(prompts[10:13], decoding=method, decoding__schedule=schedule,
                               decoding__fallback=False, **options)
        assert out.tokens == plain.tokens
        told = [e for e in events if isinstance(e, Effective) and e.path == "decoding.schedule"][-1]
        assert told.effective.startswith("ragged")
        assert told.honoured == (schedule == "ragged")


# -- events --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["token_recycling", "draft_model", "prompt_lookup"])
def test_events_belong_to_their_sequences(bundled: Any, method: str) -> None:
    settings, model = bundled("bf16")
    out, events = run(model, settings, kinds(5), decoding=method, **{"decoding.fallback": False})
    for i in range(5):
        tokens = [e for e in events if isinstance(e, Token) and e.sequence == i]
        drafts = [e for e in events if isinstance(e, Draft) and e.sequence == i]
        assert [t.id for t in tokens] == out.tokens[i]
        assert [t.index for t in tokens] == list(range(len(tokens)))
        assert sum(t.source == "draft" for t in tokens) == sum(d.accepted for d in drafts)
        by_step = Counter(t.step for t in tokens)
        for draft in drafts:
            assert draft.emitted == by_step[draft.step]
            assert 0 <= draft.accepted <= draft.drafted == draft.rows - 1
            assert draft.proposed.count("␟") == draft.drafted - 1
    drafts = [e for e in events if isinstance(e, Draft)]
    assert {d.sequence for d in drafts} >= {i for i in range(5) if len(out.tokens[i]) > 8}
    assert len({d.sequence for d in drafts}) >= 3
    assert sum(d.drafted for d in drafts) == out.drafted
    assert sum(d.accepted for d in drafts) == out.accepted
    for phase in (e for e in events if isinstance(e, Phase) and e.phase == "verify"):
        mine = [d for d in drafts if d.step == phase.step]
        assert phase.rows >= sum(d.rows for d in mine)
        assert phase.tokens >= sum(d.emitted for d in mine)
        assert sum(d.verify_s for d in mine) <= (phase.end_s - phase.start_s) * 1.0001


def test_sequences_end_at_different_times(generate: Any, prompts: list[str], model: Any,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """An end token inside an accepted draft stops that sequence only."""
    free, _ = generate(prompts[:6], limits__stop_at_eos=False)
    common = Counter(t for text in free.tokens for t in text[3:]).most_common(1)[0][0]
    monkeypatch.setattr(model, "stops", lambda: [common])
    plain, _ = generate(prompts[:6])
    assert len({len(t) for t in plain.tokens}) > 1
    for schedule in _SCHEDULES:
        for method in ("prompt_lookup", "token_recycling"):
            out, _ = generate(prompts[:6], decoding=method, decoding__schedule=schedule, limits__batch=6)
            assert out.tokens == plain.tokens
            assert out.ended == plain.ended


@pytest.mark.parametrize("new", [1, 2, 3])
def test_short_limits(generate: Any, prompts: list[str], new: int) -> None:
    plain, _ = generate(prompts[:4], limits__max_new_tokens=new)
    for method in ("prompt_lookup", "token_recycling", "jacobi"):
        out, _ = generate(prompts[:4], decoding=method, limits__max_new_tokens=new, limits__batch=4)
        assert out.tokens == plain.tokens


def test_sliding_windows_are_of_places_not_columns(write_config: Callable[..., Path], prompts: list[str]
                                                   ) -> None:
    settings = Settings().with_({
        "model.source": str(write_config(model_type="mistral", architectures=["MistralForCausalLM"],
                                         sliding_window=12)),
        "model.weights": "random", "weights": "fp32", "limits.max_new_tokens": 40,
        "telemetry.preset": "off", "compute.threads": 1})
    model = load(settings, lambda event: None)
    alone = [run(model, settings, [p])[0].tokens[0] for p in prompts[4:8]]
    for schedule in _SCHEDULES:
        out, _ = run(model, settings, prompts[4:8], decoding="token_recycling", **{
            "decoding.fallback": False, "decoding.schedule": schedule})
        assert out.tokens == alone
