"""What the bundled masked-diffusion model must show: quality falls with parallelism where words depend
on each other, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from workbench import zoo
from workbench.diffusion.canvas import fill
from workbench.settings.tree import parse
from workbench.zoo import list_tasks as tasks

pytestmark = pytest.mark.skipif(zoo.DIFFUSION not in zoo.names(), reason="not built")


@pytest.fixture(scope="module")
def model() -> Any:
    from workbench.diffusion.model import open_model

    return open_model(zoo.DIFFUSION)


def measure(model: Any, decoder: str, task: str, examples: int = 12) -> tuple[float, float, list[Any]]:
    """Share of valid answers, tokens per forward, the texts."""
    right, tokens, forwards, texts = 0, 0, 0, []
    for seed in range(examples):
        given = tasks.example(task, seed)
        found = fill(model, model.encode(" ".join(given.prompt)), parse("decoding", decoder))  # type: ignore[arg-type]
        right += tasks.right(given, model.decode(found.tokens).split())
        tokens, forwards = tokens + len(found.tokens) + 1, forwards + found.forwards
        texts.append(found.tokens)
    return right / examples, tokens / forwards, texts


@pytest.mark.parametrize("task", ["copy", "reverse", "sort", "shuffle", "add"])
def test_one_place_at_a_time_is_right(model: Any, task: str) -> None:
    assert measure(model, "diffusion_static", task)[0] >= 0.9


def test_parallelism_costs_quality_only_where_words_depend_on_each_other(model: Any) -> None:
    decoder = "diffusion_static(count=4)"
    assert measure(model, decoder, "copy")[0] == 1.0
    assert measure(model, decoder, "shuffle")[0] <= 0.1
    copy, shuffle = (measure(model, "diffusion_threshold", t) for t in ("copy", "shuffle"))
    assert copy[0] >= 0.9
    assert shuffle[0] >= 0.9
    assert copy[1] > 4 * shuffle[1]  # the threshold waits where it must


@pytest.mark.parametrize("task", ["sort", "shuffle", "replace-random"])
def test_freedave_writes_what_the_static_decoder_writes(model: Any, task: str) -> None:
    static, dave = (measure(model, d, task) for d in ("diffusion_static", "diffusion_freedave"))
    assert dave[2] == static[2]
    assert dave[1] > static[1]


def test_its_prompts_are_its_own() -> None:
    assert {p.kind for p in zoo.prompts(model=zoo.DIFFUSION)} == set(tasks.TASKS)
    known = set(tasks.VOCABULARY)
    assert all(set(p.text.split()) <= known for p in zoo.prompts(model=zoo.DIFFUSION))
