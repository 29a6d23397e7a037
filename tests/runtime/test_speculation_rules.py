"""Giving up what does not pay, adaptive lengths, pauses: none of it changes a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.runtime.batches import SAMPLED as _SAMPLED
from tests.runtime.batches import kinds, run
from workbench.events import Draft, Effective, Note, Phase


@pytest.mark.parametrize("count", [1, 3])
def test_what_does_not_pay_is_given_up(generate: Any, prompts: list[str], monkeypatch: pytest.MonkeyPatch,
                                       count: int) -> None:
    """A drafter that sleeps: the text stays, drafting stops, and the run says so."""
    import time

    from workbench.techniques.decoding.prompt_lookup import Lookup

    real = Lookup.propose

    def slow(self: Any, *args: Any) -> Any:
        time.sleep(0.05)
        return real(self, *args)

    monkeypatch.setattr(Lookup, "propose", slow)
    options = {"limits__max_new_tokens": 120, "limits__batch": count}
    plain, _ = generate(prompts[:count], **options)
    out, events = generate(prompts[:count], decoding="prompt_lookup", **options)
    assert out.tokens == plain.tokens
    notes = [e.text for e in events if isinstance(e, Note)]
    assert len(notes) == 1
    assert "decoding plainly from here" in notes[0]
    told = {e.path: e for e in events if isinstance(e, Effective)}["decoding.fallback"]
    assert told.effective.startswith("true: decoding plainly")
    drafts = [e.step for e in events if isinstance(e, Phase) and e.phase == "draft"]
    decodes = [e.step for e in events if isinstance(e, Phase) and e.phase == "decode"]
    assert len(drafts) < 20 < len(decodes)
    always, events = generate(prompts[:count], decoding="prompt_lookup", decoding__fallback=False, **options)
    assert always.tokens == plain.tokens
    assert not [e for e in events if isinstance(e, Note)]
    assert len([e for e in events if isinstance(e, Phase) and e.phase == "draft"]) > 20


def test_no_clock_decides_where_drafts_change_the_text(bundled: Any) -> None:
    settings, model = bundled("bf16")
    options = {"decoding": "draft_model", "decoding.rule": "ratio", "decoding.length": "auto", **_SAMPLED}
    _, events = run(model, settings, kinds(2), **options)
    told = {e.path: e for e in events if isinstance(e, Effective)}
    for knob in ("fallback", "length"):
        assert not told[f"decoding.{knob}"].honoured
        assert "clock" in told[f"decoding.{knob}"].reason
    greedy = {**options, "sampling.temperature": 0.0}
    _, events = run(model, settings, kinds(2), **greedy)
    assert {e.path: e for e in events if isinstance(e, Effective)}["decoding.length"].honoured


@pytest.mark.parametrize("method", ["token_recycling", "prompt_lookup", "draft_model", "adaptive_tables"])
def test_an_adaptive_length_leaves_the_text_alone(bundled: Any, alone: Any, method: str) -> None:
    settings, model = bundled("bf16")
    changes = {"decoding": method, "decoding.length": "auto", "decoding.fallback": False}
    out, events = run(model, settings, kinds(8), **changes)
    assert out.tokens == alone("bf16")
    most = settings.with_(changes).decoding.rows() - 1
    assert all(e.drafted <= most for e in events if isinstance(e, Draft))
    told = [e for e in events if isinstance(e, Effective) and e.path == "decoding.length"][-1]
    assert told.effective.startswith("auto")


def test_a_draft_that_is_never_right_is_drafted_for_less(generate: Any, prompts: list[str], small_draft: Path
                                                         ) -> None:
    """A random draft of a random target: the chains become short."""
    options = {"decoding": "draft_model", "decoding__draft": str(small_draft), "decoding__gamma": 8,
               "decoding__fallback": False, "limits__max_new_tokens": 80}
    fixed, _ = generate(prompts[:2], limits__batch=2, **options)
    auto, events = generate(prompts[:2], limits__batch=2, decoding__length="auto", **options)
    assert auto.tokens == fixed.tokens
    drafts = [e.drafted for e in events if isinstance(e, Draft)]
    assert sum(drafts[-20:]) < 0.5 * 8 * 20
    assert auto.drafted < 0.6 * fixed.drafted


def lossless() -> list[str]:
    """Every method of the catalogue that needs no trained head (tests/heads has those)."""
    from workbench.techniques.base import family
    from workbench.techniques.decoding import Speculative

    return [n for n, c in family("decoding").items() if issubclass(c, Speculative) and c.lossless
            and "head" not in {k.name for k in c.controls()}]


@pytest.mark.parametrize("method", lossless())
def test_any_method_any_pauses_any_lengths(bundled: Any, alone: Any, method: str,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafting is switched on and off and its length changed at random: no method may mind."""
    import random

    from workbench.runtime.draft_length import Lengths
    from workbench.runtime.pays import Pays

    chance = random.Random(method)
    monkeypatch.setattr(Pays, "draft", lambda self, sequences: chance.random() < 0.6)
    monkeypatch.setattr(Lengths, "of", lambda self, sequence: chance.randint(1, 20))
    settings, model = bundled("bf16")
    out, events = run(model, settings, kinds(4), decoding=method, **{"decoding.length": "auto"})
    assert out.tokens == alone("bf16")[:4]
    assert any(isinstance(e, Phase) and e.phase == "decode" for e in events)


@pytest.mark.parametrize("schedule", ["ragged", "equal", "grouped"])
def test_pauses_do_not_leave_stale_padding(generate: Any, prompts: list[str], monkeypatch: pytest.MonkeyPatch,
                                           schedule: str) -> None:
    """One sequence runs far ahead by drafts, then all decode plainly until the cache is nearly full."""
    from workbench.runtime.pays import Pays
    from workbench.techniques.decoding.prompt_lookup import Lookup

    texts = [prompts[2] * 3, "x", prompts[1]]
    plain, _ = generate(texts, limits__max_new_tokens=90, limits__stop_at_eos=False)
    longest = plain.tokens[0]
    real = Lookup.propose

    def clairvoyant(self: Any, tokens: list[int], budget: int) -> Any:
        found = real(self, tokens, budget)
        if len(tokens) > 60:  # the long text: its own future
            done = len(tokens) - (plain.prompt_tokens[0])
            ahead = longest[done:done + min(8, budget)]
            return type(found).chain(ahead) if ahead else found
        return type(found)()

    calls = iter(range(10_000))
    monkeypatch.setattr(Lookup, "propose", clairvoyant)
    monkeypatch.setattr(Pays, "draft", lambda self, sequences: next(calls) < 9)
    assert plain.prompt_tokens[0] > 60
    out, events = generate(texts, decoding="prompt_lookup", decoding__schedule=schedule, limits__batch=3,
                           limits__max_new_tokens=90, limits__stop_at_eos=False)
    assert out.tokens == plain.tokens
    assert max(e.accepted for e in events if isinstance(e, Draft)) == 8
