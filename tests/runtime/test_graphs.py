"""Static steps, which CUDA graphs replay, compute what ordinary steps do. No GPU is needed for that."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.errors import SettingsError
from workbench.runtime.cache import full_cache
from workbench.runtime.forward import MaskSet
from workbench.runtime.graphs import BLOCK, Graphs


@pytest.fixture
def forward(model: Any) -> Any:
    """The shared model's forward, module by module."""
    made = model.forward
    executor, made.executor = made.executor, None
    yield made
    made.executor, made.graphs = executor, None


def run(forward: Any, pads: list[int], prompt: int, steps: list[list[int]], capacity: int = 600
        ) -> tuple[list[torch.Tensor], Any]:
    """A prompt and steps (parents of each step's drafted rows) -> logits of every step, and the cache."""
    generator = torch.Generator().manual_seed(3)
    batch = len(pads)
    cache = full_cache(forward.config, batch, capacity, forward.device, forward.dtype)
    masks = MaskSet(forward, pads, capacity)
    found = []
    with torch.inference_mode():
        ids = torch.randint(0, 250, (batch, prompt), generator=generator)
        places = torch.arange(prompt).expand(batch, -1)
        forward(ids, places, masks.rows(0, prompt), cache, 1)
        cache.show_blocks(masks.block)
        for parents in steps:
            base, n = cache.length, 1 + len(parents)
            depths: list[int] = []
            for parent in parents:
                depths.append(1 if parent < 0 else depths[parent] + 1)
            ids = torch.randint(0, 250, (batch, n), generator=generator)
            places = (base + torch.tensor([0, *depths])).expand(batch, -1)
            mask = masks.tree(base, parents, depths)
            found.append(forward(ids, places, mask, cache, n).clone())
    return found, cache


STEPS = [[], [], [-1, 0, 1], [], [-1, -1, 0, 1, 1], [-1] * 7, []]


@pytest.mark.parametrize("pads", [[0], [0, 3, 1]])
@pytest.mark.parametrize("prompt", [5, BLOCK - 4])
def test_static_steps_compute_what_ordinary_ones_do(forward: Any, pads: list[int], prompt: int) -> None:
    wanted, theirs = run(forward, pads, prompt, STEPS)
    forward.graphs = Graphs(forward, replay=False)
    got, mine = run(forward, pads, prompt, STEPS)
    assert len(forward.graphs._steps) >= (3 if prompt == 5 else 5)  # sizes of steps, two widths of attention
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, rtol=2e-5, atol=2e-5)
    assert mine.length == theirs.length
    for a, b in zip(mine.parts, theirs.parts, strict=True):
        end = mine.length
        assert torch.allclose(a.keys[:, :, :end], b.keys[:, :, :end], rtol=2e-5, atol=2e-5)
        assert torch.allclose(a.values[:, :, :end], b.values[:, :, :end], rtol=2e-5, atol=2e-5)


def test_a_step_that_does_not_fit_is_refused_and_changes_nothing(forward: Any) -> None:
    forward.graphs = Graphs(forward, replay=False)
    with pytest.raises(SettingsError, match="KV cache holds 6 tokens"):
        run(forward, [0], 5, [[], []], capacity=6)


def test_prompts_profiled_steps_and_other_caches_are_left_alone(forward: Any) -> None:
    graphs = forward.graphs = Graphs(forward, replay=False)
    cache = full_cache(forward.config, 1, 64, forward.device, forward.dtype)
    one = torch.zeros(1, 1, dtype=torch.long)
    assert not graphs.takes(one, None, cache)  # nothing is cached yet
    cache.rewind(3)
    assert graphs.takes(one, None, cache)
    assert not graphs.takes(torch.zeros(1, 65, dtype=torch.long), None, cache)
    assert not graphs.takes(one, {"full_attention": None}, cache)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert not graphs.takes(one, None, cache)
    graphs.reason = "capturing failed: because"
    assert not graphs.takes(one, None, cache)
    assert "because" in forward.describe()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_graph_replays_the_step(settings: Any) -> None:
    from workbench.runtime import load

    model = load(settings.with_({"compute.device": "cuda", "compute.graphs": "off"}), lambda event: None)
    wanted, _ = run(model.forward, [0, 2], 5, STEPS)
    model.forward.graphs = Graphs(model.forward)
    got, _ = run(model.forward, [0, 2], 5, STEPS)
    assert not model.forward.graphs.reason
    assert model.forward.graphs.captured >= 3
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)
