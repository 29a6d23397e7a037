"""LUD: spans by confidence. Nothing ahead is plain decoding, the cache holds real tokens only, and what is
counted as agreement is agreement."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.errors import SettingsError
from workbench.runtime.lexical import LexicalLoop
from workbench.settings import Settings
from workbench.techniques.decoding import _pads
from workbench.techniques.decoding.lud import Lud

TEXT = "the cat 1 2 3"


def run(model: Any, monkeypatch: pytest.MonkeyPatch, beta: float, tokens: int = 40, **changes: Any
        ) -> tuple[Any, LexicalLoop]:
    """A run with untrained [PAD] embeddings, and its loop, whose cache is still there."""
    seen: list[LexicalLoop] = []
    started = LexicalLoop.__init__

    def watched(self: LexicalLoop, *args: Any, **options: Any) -> None:
        started(self, *args, **options)
        seen.append(self)

    pads = torch.randn(3, model.shape.hidden, generator=torch.Generator().manual_seed(1)) * 0.25
    monkeypatch.setattr(LexicalLoop, "__init__", watched)
    monkeypatch.setattr(_pads, "pads_for", lambda runtime: pads.to(model.dtype))
    chosen = model.settings.with_({"decoding": Lud(beta=beta), "limits.max_new_tokens": tokens,
                                   "limits.stop_at_eos": False, **changes})
    return model.generate([TEXT], chosen, lambda e: None, lambda: False), seen[-1]


def plainly(model: Any, tokens: int = 40, **changes: Any) -> list[int]:
    chosen = model.settings.with_({"limits.max_new_tokens": tokens, "limits.stop_at_eos": False, **changes})
    found: list[int] = model.generate([TEXT], chosen, lambda e: None, lambda: False).tokens[0]
    return found


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def target(request: Any, settings: Any) -> Any:
    from workbench.runtime import load

    return load(settings.with_(weights=request.param), lambda event: None)


@pytest.mark.parametrize("changes", [{}, {"sampling.temperature": 0.8, "seed": 3}], ids=str)
def test_with_nothing_taken_ahead_it_is_plain_decoding(changes: dict[str, Any], target: Any,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LexicalLoop, "_unit", _first_only)
    out, loop = run(target, monkeypatch, 0.9, **changes)
    assert out.tokens[0] == plainly(target, **changes)
    assert loop.mean_accepted() == 1.0
    assert target.forward.prompts is None or loop is not None


def _first_only(self: LexicalLoop, sequence: Any, logits: torch.Tensor, pads: int) -> list[int]:
    return [int(self.sampler.choose(logits[:1], [len(sequence.ids)], [sequence.index]))]


def test_tokens_taken_ahead_become_real_and_agreement_is_counted_right(
        target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one forward over the whole text: its answers and its keys."""
    real = LexicalLoop._unit
    monkeypatch.setattr(LexicalLoop, "_unit", _eager)
    out, loop = run(target, monkeypatch, 0.5, tokens=42)
    monkeypatch.setattr(LexicalLoop, "_unit", real)
    assert 1.5 < loop.mean_accepted() <= 4.0
    ids = [*target.encode(TEXT), *out.tokens[0]]
    held = loop.cache.length
    with torch.inference_mode():
        masks, cache = target.forward.masks([0], held), target.cache(target.settings, 1, held)
        both = torch.tensor([ids[:held], list(range(held))])
        logits = target.forward(both[:1], both[1:], masks.rows(0, held), cache, held)[0]
        tolerance = {"fp32": 1e-4, "bf16": 0.06}[target.settings.weights.name()]
        for mine, fresh in zip(loop.cache.parts, cache.parts, strict=True):
            assert torch.allclose(mine.keys[:, :, :held].float(), fresh.keys[:, :, :held].float(),
                                  atol=tolerance)
        best = logits.argmax(-1).tolist()
    places = loop.places  # type: ignore[attr-defined]
    done = [p for p in places if p < held]
    assert loop.checked == len(done)
    agreed = sum(best[p - 1] == ids[p] for p in done)
    assert abs(loop.agreed - agreed) <= (0 if target.settings.weights.name() == "fp32" else 2)


def _eager(self: LexicalLoop, sequence: Any, logits: torch.Tensor, pads: int) -> list[int]:
    """All that the rows say; and at which positions tokens were taken ahead."""
    tokens: list[int] = logits.argmax(-1).tolist()[:1 + pads]
    first = len(sequence.ids)
    self.places = [*getattr(self, "places", []), *range(first + 1, first + len(tokens))]  # type: ignore[attr-defined]
    return tokens


def test_a_unit_ends_at_doubt_repetition_and_the_end_of_text(target: Any,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    _, loop = run(target, monkeypatch, 0.9, tokens=3)
    here: Any = SimpleNamespace(ids=[1, 2], index=0)

    def unit(tokens: list[int], scores: list[float], stops: tuple[int, ...] = ()) -> list[int]:
        loop.stops = set(stops)
        logits = torch.zeros(len(tokens), 300)
        logits[range(len(tokens)), tokens] = torch.tensor(scores)
        return loop._unit(here, logits, len(tokens) - 1)

    assert unit([5, 6, 7], [1.0, 20.0, 20.0]) == [5, 6, 7]  # the first needs no confidence
    assert unit([5, 6, 7], [20.0, 5.0, 20.0]) == [5]  # 5 over 299 zeros: one third
    assert unit([5, 6, 6, 7], [20.0] * 4) == [5, 6]
    assert unit([5, 6, 7], [20.0] * 3, stops=(6,)) == [5, 6]


def test_the_length_limit_holds_inside_a_unit(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LexicalLoop, "_unit", _eager)
    for limit in (1, 2, 3, 6):
        out, _ = run(target, monkeypatch, 0.5, tokens=limit)
        assert len(out.tokens[0]) == limit


def test_embeddings_are_learnt_kept_and_read_again(model: Any, settings: Any,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """On random weights units are rare, so any confidence counts; the loss must fall."""
    from workbench.runtime.guard import Guard
    from workbench.techniques.decoding._specee_train import beginnings, own_texts

    monkeypatch.setattr(_pads, "ALPHA", 0.0)
    with torch.inference_mode():
        ids, _ = own_texts(model, beginnings(model)[:8], Guard(lambda: False), lambda done, total: None)
    losses: list[float] = []
    with torch.inference_mode(False), torch.enable_grad():
        pads = _pads.learn(model, ids.clone(), lambda: None, lambda done, total: None, 60,
                           lambda step, loss, hits: losses.append(loss))
    assert pads.shape == (_pads.PADS, model.shape.hidden)
    assert losses[-1] < losses[0] - 0.05
    path = _pads.kept_in(settings)
    _pads.save(pads, path)
    monkeypatch.setattr(_pads, "trained", lambda runtime: pytest.fail("trained again"))
    from types import SimpleNamespace

    again = _pads.pads_for(SimpleNamespace(model=model, settings=settings))
    assert torch.allclose(again.float(), pads, atol=1e-6)


def test_other_formats_are_told_to_train_first(model: Any, settings: Any) -> None:
    from types import SimpleNamespace

    chosen = settings.with_(weights="int8")
    with pytest.raises(SettingsError, match="weights=bf16"):
        _pads.trained(SimpleNamespace(model=model, settings=chosen))


def test_batches_are_refused() -> None:
    assert "batch" in str(Lud().refuses(Settings().with_({"limits.batch": 2})))
    assert not Lud().lossless


def test_the_bundled_embeddings_are_read() -> None:
    """Where they are part of this checkout."""
    path = _pads.bundled("bundled")
    assert path is not None
    if not path.is_file():
        pytest.skip("not trained here")
    from safetensors.torch import load_file

    assert load_file(path)["pads"].shape == (3, 384)
