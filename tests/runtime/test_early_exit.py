"""Early exit: deferred layers are exact, agreement is counted right, predictors learn, and nobody leaves
a text changed where nobody leaves early."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.errors import ModelError, SettingsError
from workbench.runtime.early_exit import EarlyExitLoop
from workbench.settings import Settings
from workbench.techniques.decoding._predictors import Predictors, features, scheduled, train
from workbench.techniques.decoding.specee import SpecEE

TEXT = "def add(a, b):"


class Forced:
    """Leaves at given layers, one per token, whatever the layer says; 0 runs to the end."""

    def __init__(self, plan: list[int]) -> None:
        self.plan, self.step = plan, -1

    def begin(self, tokens: list[int]) -> list[int]:
        self.step += 1
        return [1, 2, 3]

    def sure(self, layer: int, state: torch.Tensor) -> bool:
        return layer == self.plan[self.step % len(self.plan)]

    def confirms(self, logits: torch.Tensor) -> bool:
        return True

    def ended(self, layer: int) -> None:
        return None

    def memory_bytes(self) -> int:
        return 0


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def deep(request: Any, write_config: Any, settings: Any) -> Any:
    """A target of four layers: module by module, and in the native executor where there is one."""
    from workbench.runtime import load

    path = write_config(num_hidden_layers=4, initializer_range=0.1)
    return load(settings.with_({"model.source": str(path), "weights": request.param,
                                "limits.stop_at_eos": False}), lambda event: None)


def forced(model: Any, plan: list[int], monkeypatch: pytest.MonkeyPatch, tokens: int = 40
           ) -> tuple[Any, EarlyExitLoop]:
    """A run that leaves by this plan, and its loop, whose cache is still there."""
    seen: list[EarlyExitLoop] = []

    class Watched(EarlyExitLoop):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            seen.append(self)

    monkeypatch.setattr(SpecEE, "loop", lambda self, runtime, n: functools.partial(
        Watched, exits=Forced(plan)))
    chosen = model.settings.with_({"decoding": "specee", "decoding.draft": "self",
                                   "limits.max_new_tokens": tokens})
    return model.generate([TEXT], chosen, lambda e: None, lambda: False), seen[0]


def test_nobody_leaves_and_the_text_is_that_of_plain_decoding(deep: Any,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    out, loop = forced(deep, [0], monkeypatch)
    plain = deep.generate([TEXT], deep.settings, lambda e: None, lambda: False)
    assert out.tokens == plain.tokens
    assert set(loop.depths) == {4}


@pytest.mark.parametrize("plan", [[1, 2, 3, 0], [2, 1, 0], [3, 3, 1, 2, 2, 1, 0], [1] * 7 + [0]])
def test_what_was_deferred_is_what_full_depth_computes(plan: list[int], deep: Any,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """After a token that ran to the end the cache is that of a fresh prefill, and the agreement counted is
    the agreement that a forward over the whole text finds."""
    steps = len(plan) * (40 // len(plan))
    out, loop = forced(deep, plan, monkeypatch, tokens=steps + 1)
    assert loop.depths == [n or 4 for n in plan] * (steps // len(plan))
    assert not loop._waiting
    ids = [*deep.encode(TEXT), *out.tokens[0]]
    n = len(ids) - 1
    with torch.inference_mode():
        cache = deep.cache(deep.settings, 1, n)
        masks = deep.forward.masks([0], n)
        both = torch.tensor([ids[:n], list(range(n))])
        logits = deep.forward(both[:1], both[1:], masks.rows(0, n), cache, n)[0]
        tolerance = {"fp32": 1e-4, "bf16": 0.06}[deep.settings.weights.name()]
        for mine, fresh in zip(loop.cache.parts, cache.parts, strict=True):
            assert torch.allclose(mine.keys[:, :, :n].float(), fresh.keys[:, :, :n].float(), atol=tolerance)
            assert torch.allclose(mine.values[:, :, :n].float(), fresh.values[:, :, :n].float(),
                                  atol=tolerance)
        best = logits.argmax(-1).tolist()
    first = len(ids) - len(out.tokens[0])  # the prefill's token
    early = [i for i, depth in enumerate(loop.depths) if depth < 4]
    assert loop.checked == len(early)
    agreed = sum(best[first + i] == ids[first + 1 + i] for i in early)
    assert abs(loop.agreed - agreed) <= (0 if deep.settings.weights.name() == "fp32" else 1)
    assert loop.agreed < len(early)  # random layers do not agree, or this test sees nothing


def test_too_many_waiting_rows_make_a_token_run_to_the_end(deep: Any,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    _, loop = forced(deep, [1], monkeypatch, tokens=60)
    assert loop.depths.count(4) == 2
    assert max(len(run) for run in "".join("x" if d < 4 else " " for d in loop.depths).split()) == 24


def test_a_part_of_the_layers_and_the_rest_are_the_whole(deep: Any) -> None:
    ids = torch.tensor([5, 77, 99, 200, 41, 7])
    places, forward = torch.arange(6), deep.forward
    with torch.inference_mode():
        masks = forward.masks([0], 16)
        rows = masks.ragged([0], [0], [tuple(range(-1, 4))])
        fresh, cache = (deep.cache(deep.settings, 1, 16) for _ in range(2))
        wanted = forward(ids[None], places[None], masks.rows(0, 6), fresh, 6)[0].clone()
        cache.show_blocks(masks.block)
        x = forward.embed(ids)
        for first, last in ((0, 1), (1, 3), (3, 4)):
            x = forward.part(x, first, last, places, rows, cache)
    assert torch.allclose(x.float(), wanted.float(), atol=1e-5 if forward.executor else 1e-3)


# -- predictors ---------------------------------------------------------------------------------------


def test_features_are_logits_softmax_and_how_it_moved() -> None:
    logits = torch.tensor([[1.0, 1.0], [0.0, 5.0]])
    found, p = features(logits, None)
    assert found.shape == (2, 6)
    assert torch.allclose(found[0], torch.tensor([1.0, 1.0, 0.5, 0.5, 0.0, 0.0]))
    again, _ = features(logits, p)
    assert torch.allclose(again[:, 4:], torch.zeros(2, 2))


def trained() -> tuple[Predictors, dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Layer 2's answers are settled where the first candidate leads by more than one; layer 1's never."""
    dice = torch.Generator().manual_seed(3)
    logits = torch.randn(600, 3, generator=dice) * 2
    x, _ = features(logits, None)
    top = logits.topk(2, -1).values
    settled = {1: torch.zeros(600, dtype=torch.bool), 2: top[:, 0] - top[:, 1] > 1.0}
    found = {1: x, 2: x}
    return train({n: v[:400] for n, v in found.items()}, {n: v[:400] for n, v in settled.items()}, 3,
                 lambda done, total: None, lambda: None), found, settled


def test_predictors_learn_what_settled_means(tmp_path: Path) -> None:
    made, found, settled = trained()
    right = ((made(2, found[2][400:]) > 0.5) == settled[2][400:]).float().mean()
    assert right > 0.9  # always yes or always no is right for about 60 %
    assert made(1, found[1][400:]).max() < 0.5
    assert made.best_layers(1) == [2]
    made.save(tmp_path / "one.safetensors")
    again = Predictors.load(tmp_path / "one.safetensors")
    assert torch.equal(again(2, found[2]), made(2, found[2]))
    assert (again.first, again.candidates, again.layers) == (made.first, 3, [1, 2])


def test_a_file_of_another_kind_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(b"no tensors here")
    with pytest.raises(ModelError, match="trained again"):
        Predictors.load(path)


def test_the_schedule_is_static_layers_and_recent_neighbours() -> None:
    assert scheduled([6], [3, 3, 1], [1, 2, 3, 4, 5, 6, 7], 1) == [1, 2, 3, 4, 6]
    assert scheduled([6], [], [1, 2, 3], 1) == [6]


# -- the technique ------------------------------------------------------------------------------------


def test_specee_runs_and_says_how_often_it_agrees(model: Any, settings: Any, small_draft: Any) -> None:
    """On random weights: predictors are trained on demand, kept, and what ran is said."""
    from workbench.events import Progress
    from workbench.machine import home

    events: list[Any] = []
    chosen = settings.with_({"decoding": "specee", "decoding.draft": str(small_draft),
                             "decoding.layers": "all", "decoding.threshold": 0.5})
    first = model.generate([TEXT], chosen, events.append, lambda: False)
    assert any(isinstance(e, Progress) and "predictors" in e.what for e in events)
    assert len(list((home() / "cache" / "specee").glob("*.safetensors"))) == 1
    assert "layers on average" in model.effective()["decoding"].effective
    events.clear()
    again = model.generate([TEXT], chosen, events.append, lambda: False)
    assert not any(isinstance(e, Progress) for e in events)
    assert again.tokens == first.tokens


def test_what_it_cannot_do_is_said_before_anything_loads() -> None:
    choice = SpecEE()
    assert "batch" in str(choice.refuses(Settings().with_({"limits.batch": 2})))
    assert "kv=full" in str(choice.refuses(Settings().with_({"kv": "kivi"})))
    assert not choice.lossless


def test_two_prompts_are_refused(model: Any, settings: Any, small_draft: Any) -> None:
    chosen = settings.with_({"decoding": "specee", "decoding.draft": str(small_draft)})
    with pytest.raises(SettingsError, match="one sequence"):
        model.generate(["a", "b"], chosen, lambda e: None, lambda: False)
