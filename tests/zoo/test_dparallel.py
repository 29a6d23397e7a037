"""dParallel's recipe: what is masked, what the losses are, and that it really makes the model surer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench.diffusion.canvas import fill
from workbench.diffusion.model import DiffusionModel, open_model
from workbench.techniques.decoding.diffusion_static import DiffusionStatic
from workbench.zoo import list_tasks as tasks
from workbench.zoo.recipes import dparallel
from workbench.zoo.recipes.diffusion import _MASK, encode

SMALL = dparallel.Certainty(samples=64, steps=16, batch=32, warmup=2, lr=1e-3, spread=0.0,
                            determined=False)


@pytest.fixture(scope="module")
def base() -> DiffusionModel:
    torch.set_num_threads(1)
    return open_model(dparallel.BASE)


def test_own_answers_are_those_of_static_decoding(base: DiffusionModel) -> None:
    """The batch of a recipe against the canvas loop, one example at a time."""
    recipe = replace(SMALL, samples=22)
    rows, places = dparallel.own_answers(base.model, recipe, batch=10)
    assert rows.shape == places.shape == (22, tasks.PROMPT + tasks.CANVAS)
    assert not bool((rows == _MASK).any())
    same = 0
    for i in range(22):
        number = recipe.start + i // 10 * 10 + i % 10
        given = tasks.example(tasks.TASKS[number % len(tasks.TASKS)], number)
        alone = fill(base, base.encode(" ".join(given.prompt)), DiffusionStatic())
        answer = rows[i, tasks.PROMPT:].tolist()
        same += answer[:len(alone.tokens)] == alone.tokens
    assert same >= 21  # near-ties may fall the other way in another batch


@pytest.mark.parametrize("block", [12, 4])
def test_the_two_forwards_share_out_a_block(block: int) -> None:
    _, places = encode(5, 40)
    first, second = dparallel.halves(places, replace(SMALL, block=block), torch.Generator().manual_seed(0))
    assert not bool(((first | second) & ~places).any())
    canvas = (first | second)[:, tasks.PROMPT:]
    seen = set()
    for a, b, both in zip(first, second, canvas, strict=True):
        start = int(both.nonzero()[0])
        assert bool(both[start:].all())  # everything from the block on is masked in one or the other
        assert start % block == 0
        behind = (a & b)[tasks.PROMPT:].nonzero()
        assert len(behind) == max(0, tasks.CANVAS - start - block)
        seen.add(start)
    assert seen == set(range(0, tasks.CANVAS, block))


def test_the_entropy_counts_what_is_right_only() -> None:
    """A model that says one thing everywhere, with known logits."""
    class Fixed(torch.nn.Module):
        def forward(self, rows: torch.Tensor, **_: object) -> object:
            from types import SimpleNamespace

            logits = torch.zeros(*rows.shape, 5)
            logits[..., 3] = 2.0
            return SimpleNamespace(logits=logits)

    rows = torch.tensor([[3, 4, 3, 3]])
    masked = torch.tensor([[False, True, True, True]])
    recipe = replace(SMALL, temperature=0.5)
    ce, entropy = dparallel.loss_of(Fixed(), rows, masked, recipe)  # type: ignore[arg-type]
    plain = torch.tensor([0.0, 0.0, 0.0, 2.0, 0.0]).log_softmax(-1)
    assert float(ce) == pytest.approx(float(-(plain[4] + 2 * plain[3]) / 3), abs=1e-5)
    p = torch.tensor([0.0, 0.0, 0.0, 4.0, 0.0]).softmax(-1)
    assert float(entropy) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)
    wrong, none = dparallel.loss_of(Fixed(), torch.full((1, 4), 4), masked, recipe)  # type: ignore[arg-type]
    assert float(none) == 0.0
    assert float(wrong) > float(ce)


def test_a_few_steps_make_it_surer_and_the_control_does_not_as_much(base: DiffusionModel) -> None:
    """beta is what forces certainty: with it the entropy of right answers falls further than without."""
    found = {}
    for beta in (0.0, 2.0):
        recipe = replace(SMALL, beta=beta)
        model = dparallel.train(recipe)
        rows, places = dparallel.own_answers(base.model, replace(SMALL, start=9_000_000))
        masked = dparallel.halves(places, recipe, torch.Generator().manual_seed(5))[0]
        with torch.no_grad():
            _, entropy = dparallel.loss_of(model, rows, masked, recipe)
        found[beta] = float(entropy)
    assert found[2.0] < 0.9 * found[0.0]


def test_a_folder_of_it_opens_and_decodes(tmp_path: Path) -> None:
    recipe = replace(SMALL, samples=32, steps=2)
    folder = dparallel.build(tmp_path, recipe, tmp_path / "made", traced=4)
    model = open_model(folder)
    found = fill(model, model.encode("copy tiger apple drum lemon ="), DiffusionStatic())
    assert model.decode(found.tokens) == "tiger apple drum lemon"
    about = json.loads((folder / "manifest.json").read_text())
    assert (about["base"], about["recipe"]["beta"]) == (dparallel.BASE, 2.0)
    assert model.filter()(torch.zeros(model.canvas)).shape == (model.canvas,)
