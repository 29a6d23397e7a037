"""Decoders of masked-diffusion models on exact marginals, and on a network with random weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from workbench.diffusion.canvas import Filled, fill
from workbench.diffusion.filter import Filter, train
from workbench.errors import Cancelled, ModelError, SettingsError
from workbench.techniques.base import family
from workbench.techniques.decoding._diffusion import top
from workbench.zoo import list_tasks as tasks

MASK, EOS, N = 0, 1, 5
METHODS: dict[str, Any] = {n.removeprefix("diffusion_"): c for n, c in family("decoding").items()
                           if n.startswith("diffusion_")}


class Exact:
    """Knows every valid text and answers with the true marginals given what is committed."""

    mask, eos, canvas = MASK, EOS, N

    def __init__(self, texts: list[tuple[int, ...]], vocabulary: int = 10) -> None:
        self.texts, self.vocabulary = torch.tensor(texts), vocabulary

    def rows(self, prompt: list[int], canvas: int) -> torch.Tensor:
        return torch.tensor([prompt])

    def logits(self, prompt: torch.Tensor, canvases: torch.Tensor) -> torch.Tensor:
        found = []
        for row in canvases:
            open_ = row == MASK
            fits = self.texts[((self.texts == row) | open_).all(1)]
            counts = torch.full((len(row), self.vocabulary), 1e-9)
            for place in range(len(row)):
                values = fits[:, place] if len(fits) else self.texts[:, place]
                counts[place] += torch.bincount(values, minlength=self.vocabulary)
            found.append((counts / counts.sum(-1, keepdim=True)).log())
        return torch.stack(found)

    def filter(self) -> Any:
        return lambda confidence: confidence


class Random(Exact):
    """A fixed random network over the canvas: nothing is certain, everything depends on everything."""

    def __init__(self, seed: int, places: int = 8, vocabulary: int = 12) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.canvas, self.vocabulary = places, vocabulary
        self.inner = torch.randn(places * vocabulary, 64, generator=generator)
        self.outer = torch.randn(64, places * vocabulary, generator=generator)

    def logits(self, prompt: torch.Tensor, canvases: torch.Tensor) -> torch.Tensor:
        seen = torch.nn.functional.one_hot(canvases, self.vocabulary).float().flatten(1)
        out = (torch.tanh(seen @ self.inner) @ self.outer).view(len(canvases), -1, self.vocabulary)
        out = out * 0.6
        out[..., MASK] = float("-inf")
        return out


PERMUTATIONS = list(itertools.permutations(range(2, 2 + N)))
COPY = [(2, 3, 4, 5, 6)]


def run(model: Any, name: str, block: int = 0, **knobs: Any) -> Filled:
    method = METHODS[name]().replace(**knobs)
    return fill(model, [3], method, block=block)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_decoder_fills_the_canvas_once_and_gets_what_is_certain(name: str) -> None:
    found = run(Exact(COPY), name)
    assert tuple(found.tokens) == COPY[0]
    assert sorted(c.place for c in found.commits) == list(range(N))
    assert [c.step for c in found.commits] == sorted(c.step for c in found.commits)


@pytest.mark.parametrize(("name", "knobs"), [
    ("static", {}), ("threshold", {}), ("localleap", {}), ("credit", {}), ("entropy", {}),
    ("freedave", {})])
def test_one_at_a_time_is_always_right_where_tokens_depend_on_each_other(
        name: str, knobs: dict[str, Any]) -> None:
    """Exact marginals and commits that wait for certainty: always a permutation."""
    found = run(Exact(PERMUTATIONS), name, **knobs)
    assert sorted(found.tokens) == list(range(2, 2 + N))


def test_too_much_at_once_is_wrong_there() -> None:
    """At temperature 0 all marginals have one argmax: the same word everywhere."""
    found = run(Exact(PERMUTATIONS), "static", count=N)
    assert found.forwards == 1
    assert len(set(found.tokens)) == 1
    assert len(set(run(Exact(PERMUTATIONS), "threshold", tau=0.3).tokens)) <= N


def test_parallel_costs_less_where_everything_is_certain() -> None:
    forwards = {name: run(Exact(COPY), name).forwards for name in
                ("static", "threshold", "localleap", "credit", "entropy", "learn2pd")}
    assert forwards["static"] == N
    assert {forwards[n] for n in forwards if n != "static"} == {1}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("drafts", [1, 3, 8])
def test_freedave_is_the_static_decoder_in_fewer_forwards(seed: int, drafts: int) -> None:
    static, dave = run(Random(seed), "static"), run(Random(seed), "freedave", drafts=drafts)
    assert dave.tokens == static.tokens
    order, done = [c.place for c in static.commits], 0
    for _, group in itertools.groupby(dave.commits, key=lambda c: c.step):
        places = {c.place for c in group}
        assert places == set(order[done:done + len(places)])
        done += len(places)
    assert dave.forwards <= static.forwards + 1
    if drafts == 1:
        assert dave.rows == static.forwards + 1


def test_freedave_on_certainty_takes_as_many_as_it_drafts() -> None:
    found = run(Exact(COPY), "freedave", drafts=N)
    assert found.forwards == 2  # one proposal, one verification
    assert tuple(found.tokens) == COPY[0]


@pytest.mark.parametrize("seed", range(6))
def test_neutral_settings_make_a_threshold_of_each(seed: int) -> None:
    plain = run(Random(seed), "threshold", tau=0.5).commits
    assert run(Random(seed), "localleap", tau=0.5, tau_near=0.5).commits == plain
    assert run(Random(seed), "credit", tau=0.5, alpha=0.0).commits == plain


def test_credit_makes_a_steady_guess_sure() -> None:
    """A place that always says the same with 60 % is committed earlier than without credit."""
    model = Random(3)
    slow = run(model, "credit", tau=0.9, alpha=0.0, power=0.0).forwards
    fast = run(model, "credit", tau=0.9, alpha=4.0, beta=1.0, power=0.0).forwards
    assert fast < slow


def test_blocks_are_filled_in_order() -> None:
    found = run(Random(1), "static", block=4)
    places = [c.place for c in found.commits]
    assert set(places[:4]) == {0, 1, 2, 3}
    assert set(places[4:]) == {4, 5, 6, 7}


def test_eotp_gives_up_what_follows_the_end() -> None:
    model = Exact([(2, 3, EOS, EOS, EOS)])
    method = METHODS["learn2pd"]().replace(tau=0.999, end="committed")
    model.filter = lambda: lambda confidence: torch.zeros_like(confidence)  # type: ignore[assignment,method-assign]
    pruned = fill(model, [3], method)
    whole = fill(model, [3], method.replace(end="off"))
    assert pruned.tokens == whole.tokens == [2, 3]
    assert pruned.forwards < whole.forwards == N


def test_top_prefers_the_left_of_equals() -> None:
    confidence = torch.tensor([0.5, 0.9, 0.9, 0.1])
    allowed = torch.tensor([True, True, True, False])
    assert top(confidence, allowed, 1).tolist() == [False, True, False, False]
    assert top(confidence, allowed, 9).tolist() == [True, True, True, False]


def test_cancel_and_bad_blocks() -> None:
    method = METHODS["static"]()
    with pytest.raises(Cancelled):
        fill(Exact(COPY), [3], method, cancelled=lambda: True)
    with pytest.raises(SettingsError, match="does not fit a canvas of 5"):
        fill(Exact(COPY), [3], method, block=9)


# -- tasks -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_answer_is_right_and_another_is_not(task: str) -> None:
    for seed in range(40):
        found = tasks.example(task, seed)
        assert found == tasks.example(task, seed)
        assert len(found.prompt) <= tasks.PROMPT
        assert len(found.answer) < tasks.CANVAS
        assert tasks.right(found, found.answer) or task == "shuffle"
        assert not tasks.right(found, [*found.answer, "zebra"])
        assert not tasks.right(found, found.answer[:-1])
        assert not tasks.right(found, ["zebra"] * len(found.answer))


def test_random_tasks_accept_every_valid_answer() -> None:
    found = tasks.example("remove-random", 5, n=4)
    for i in range(4):
        assert tasks.right(found, found.items[:i] + found.items[i + 1:])
    insert = tasks.example("insert-random", 5, n=4)
    for i in range(5):
        assert tasks.right(insert, [*insert.items[:i], insert.extra, *insert.items[i:]])


def test_closed_forms() -> None:
    """Against drawing: independent draws from the true marginals of the answers."""
    import random

    r, n, draws = random.Random(0), 5, 20_000
    hits = sum(len({r.randrange(n) for _ in range(n)}) == n for _ in range(draws)) / draws
    assert abs(hits - tasks.one_shot("shuffle", n)) < 0.005
    hits = sum(sum(r.random() < 1 / n for _ in range(n)) == 1 for _ in range(draws)) / draws
    assert abs(hits - tasks.one_shot("replace-random", n)) < 0.015


def test_the_filter_learns_a_pattern() -> None:
    """Final is what is above its neighbour: no single threshold says that."""
    torch.manual_seed(0)
    confidences = torch.rand(600, 4)
    labels = (confidences > confidences.roll(1, 1)).long()
    found = train(confidences, labels, steps=800)
    test = torch.rand(300, 4)
    final = test > test.roll(1, 1)
    with torch.no_grad():
        right = float(((found(test) > 0.5) == final).float().mean())
    single = max(float(((test > t) == final).float().mean()) for t in torch.linspace(0, 1, 50))
    assert right > single + 0.08


def test_a_missing_filter_and_a_wrong_model_are_one_sentence(tmp_path: Any) -> None:
    from workbench.diffusion.model import open_model

    with pytest.raises(ModelError, match="no trained filter"):
        Filter.load(tmp_path / "learn2pd.safetensors")
    with pytest.raises(ModelError, match="is not a masked-diffusion model"):
        open_model("wb-14m")
    with pytest.raises(ModelError, match="there is no model in"):
        open_model(tmp_path)
