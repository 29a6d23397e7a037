"""Training: probes see what they should, heads learn, the target does not change, cancelling is safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.heads.conftest import METHODS
from workbench.errors import Cancelled, SettingsError
from workbench.heads import files, measure, probes, train
from workbench.heads.distil import towards
from workbench.heads.service import Order, train_head
from workbench.heads.target import Target
from workbench.heads.text import continued


@pytest.fixture(scope="module")
def learned(opened: Any) -> tuple[Any, Target, train.Features]:
    """The small target and its states over 48 texts that it wrote itself."""
    _, model = opened("fp32")
    prompts = torch.randint(0, 256, (48, 4), generator=torch.Generator().manual_seed(1))
    tokens = continued(model.forward, prompts, 28)
    states = train.features(model.forward, tokens, [1, 3], train.never)
    return model, Target(model.loaded.model), states


def test_text_is_the_targets_own(opened: Any, learned: Any) -> None:
    """The first half is greedy: each token is the target's most likely one."""
    model, _, states = learned
    tokens = states.tokens[:4]
    with torch.no_grad():
        best = model.loaded.model(tokens).logits.argmax(-1)
    assert torch.equal(best[:, 3:-1], tokens[:, 4:])


def test_states_are_those_of_the_modules(learned: Any) -> None:
    model, target, states = learned
    with torch.no_grad():
        out = model.loaded.model.model(states.tokens[:4], output_hidden_states=True)
    torch.testing.assert_close(states.states[1][:4].float(), out.hidden_states[1], atol=0.03, rtol=0.02)
    batch = states.batch(torch.arange(4), target, 1)
    torch.testing.assert_close(batch.features, out.last_hidden_state, atol=0.03, rtol=0.02)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_probe_that_is_the_real_row_gives_the_real_features(learned: Any, layer: int) -> None:
    """Rows of the tokens ahead in the place of guesses: same positions, same context, same features."""
    model, target, states = learned
    tokens, steps = states.tokens[:3], 3
    places = torch.tensor([2, 9, 20])
    with torch.no_grad():
        hidden = model.loaded.model.model(tokens, output_hidden_states=True)
        real = hidden.hidden_states[layer]
        ahead = places[:, None] + 1 + torch.arange(steps)
        found = probes.run(target, layer, real, real[:, ahead], places, steps)
    torch.testing.assert_close(found, hidden.last_hidden_state[:, ahead], atol=1e-4, rtol=1e-4)


def loss_of(head: Any, target: Target, states: train.Features) -> float:
    """Cross entropy to the target over all windows."""
    with torch.no_grad():
        batch = states.batch(torch.arange(48), target, head.layer)
        return float(towards(head.eval().guesses(batch, target)).loss)


def test_hits_count_the_right_guesses(learned: Any) -> None:
    """A head that says the target's own features of each step is always right, at the first rank."""
    _, target, states = learned
    head = files.build(files.default_spec("medusa", target, "test"))

    class Right(type(head)):  # type: ignore[misc]
        def guesses(self, batch: Any, target: Target) -> Any:
            teachers = [batch.teacher[:, 1 + i:] for i in range(3)]
            best = [torch.nn.functional.one_hot(t.argmax(-1), 300).float() for t in teachers]
            return [best[0], -best[1], best[2].roll(1, -1)], teachers

    head.__class__ = Right
    hits = measure.rank_hits(head, target, states)
    assert hits[0] == [1.0] + [0.0] * 9
    assert sum(hits[1]) == 0.0
    assert hits[2][0] == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_every_head_learns_and_the_target_stays(learned: Any, method: str) -> None:
    _, target, states = learned
    before = [p.detach().clone() for p in target.model.parameters()]
    target.model.requires_grad_(False)
    torch.manual_seed(0)
    head = files.build(files.default_spec(method, target, "test"))
    head.begin(target)
    start = loss_of(head, target, states)
    rows: list[Any] = []
    last = train.train(head, target, states, train.Plan(steps=40, batch=8, warmup=4),
                       tell=lambda done, of, row: rows.append((done, of)))
    assert loss_of(head, target, states) < start - 0.01
    assert rows == [(i + 1, 40) for i in range(40)]
    assert last["step"] == 40
    assert all(torch.equal(a, b) for a, b in zip(before, target.model.parameters(), strict=True))


def test_the_same_seed_gives_the_same_head(learned: Any) -> None:
    _, target, states = learned
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        head = files.build(files.default_spec("clover", target, "test"))
        train.train(head, target, states, train.Plan(steps=3, batch=4))
        found.append(head.state_dict())
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_train_save_and_draft(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a model without a head to text drafted by one, as a user does it."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    settings, model = opened("fp32")
    told: list[tuple[str, int, int]] = []
    made = train_head(settings, Order("medusa", steps=4, windows=24, prompt=8, new=16, batch=4),
                      tell=lambda *news: told.append(news))
    assert made.folder.is_relative_to(tmp_path / "heads")
    assert made.hits[0][0] >= 0
    assert any("training" in what and done == of == 4 for what, done, of in told)
    wanted = model.generate(["abc"], settings, lambda e: None, lambda: False).tokens
    found = model.generate(["abc"], settings.with_({"decoding": {"name": "medusa", "fallback": False}}),
                           lambda e: None, lambda: False)
    assert found.tokens == wanted
    assert found.drafted > 0


def test_a_cancelled_training_leaves_nothing(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                             ) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    settings, _ = opened("fp32")
    steps: list[int] = []

    def tell(what: str, done: int, of: int) -> None:
        if what.startswith("training"):
            steps.append(done)

    with pytest.raises(Cancelled):
        train_head(settings, Order("medusa", steps=50, windows=24, prompt=8, new=16, batch=4), tell=tell,
                   cancelled=lambda: len(steps) >= 2)
    assert len(steps) == 2
    assert not (tmp_path / "heads").exists()


@pytest.mark.parametrize(("changes", "order", "says"), [
    ({}, {"method": "hydra"}, "choose one of medusa"),
    ({"weights": "int4"}, {}, "set weights=bf16"),
    ({}, {"windows": 3}, "take at least"),
    ({}, {"new": 4000}, "give a smaller --new"),
    ({}, {"text": "/no/such/file"}, "/no/such/file"),
])
def test_bad_orders_are_one_sentence(opened: Any, changes: dict[str, Any], order: dict[str, Any], says: str
                                     ) -> None:
    settings, _ = opened("fp32")
    given = {"method": "medusa", "steps": 2, "windows": 24, "prompt": 8, "new": 16, "batch": 4, **order}
    with pytest.raises(SettingsError, match=says):
        train_head(settings.with_(changes), Order(**given))


def test_dovetails_head_starts_as_the_eagle_head(learned: Any) -> None:
    """Its second layer is the identity, its first the other's; near zero the gate is the matrix."""
    _, target, _ = learned
    torch.manual_seed(2)
    eagle, head = (files.build(files.default_spec(m, target, "test")) for m in ("eagle", "dovetail"))
    with torch.no_grad():
        eagle.fuse.both.bias.zero_()
    head.begin_as(eagle)
    state, token = torch.randn(1, 6, 128) * 1e-3, torch.randn(1, 6, 128) * 1e-3
    places = torch.arange(6)
    with torch.no_grad():
        mixed = head.fuse(state, token)
        torch.testing.assert_close(mixed, eagle.fuse(state, token), atol=2e-5, rtol=0.05)
        assert torch.equal(head.layers[1](mixed, places), mixed)
        found, wanted = head(state, token, places), eagle(state, token, places)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0.05)
