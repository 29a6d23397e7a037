"""The native executor: the modules' logits, the same bits for any company, the same text with drafts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.errors import Cancelled, SettingsError
from workbench.events import Phase, Token
from workbench.runtime import load, native_library
from workbench.runtime.forward import MaskSet
from workbench.runtime.loop import Loop
from workbench.runtime.native import RowSet, argmax
from workbench.runtime.native_trace import trace
from workbench.settings import Settings

pytestmark = pytest.mark.skipif(not native_library.available(), reason=native_library.why_not())

_WIDE = {"head_dim": 32, "hidden_size": 128, "intermediate_size": 192, "vocab_size": 300,
         "initializer_range": 0.08}
_QWEN = {"use_sliding_window": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
_SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "llama3 rope": {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], **_QWEN},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **_QWEN},
}


@pytest.fixture(scope="module")
def opened(write_config: Callable[..., Path]) -> Callable[..., Any]:
    """``opened(weights, **config)`` -> (settings, model), each loaded once."""
    held: dict[str, Any] = {}

    def get(weights: Any = "bf16", **config: Any) -> Any:
        key = f"{weights} {config}"
        if key not in held:
            settings = Settings().with_({
                "model.source": str(write_config(**{**_WIDE, "dtype": "bfloat16", **config})),
                "model.weights": "random", "weights": weights, "limits.max_new_tokens": 40,
                "telemetry.preset": "off", "compute.threads": 1})
            held[key] = settings, load(settings, lambda event: None)
        return held[key]

    return get


def run(model: Any, settings: Any, prompts: list[str], emit: Any = lambda e: None, **changes: Any) -> Any:
    return model.generate(prompts, settings.with_(changes), emit, lambda: False)


def forward(model: Any, settings: Any, ids: list[int], sizes: list[int], native: bool = True
            ) -> torch.Tensor:
    """float32 logits [n, V] of ``ids``, taken in steps of ``sizes`` rows."""
    f = model.forward
    cache, found = model.cache(settings, 1, len(ids) + 8), []
    masks = f.masks([0], cache.capacity) if native else MaskSet(f, [0], cache.capacity)
    with torch.inference_mode():
        for size in sizes:
            base = cache.length
            part = torch.tensor([ids[base:base + size]])
            places = torch.arange(base, base + size)[None]
            mask = masks.tree(base, range(-1, size - 2), range(1, size)) if native else \
                masks.rows(base, size)
            found.append(f(part, places, mask, cache, size)[0].float().clone())
    return torch.cat(found)


@pytest.mark.parametrize("name", _SHAPES)
@pytest.mark.parametrize("kv", ["full", "int8"])
def test_logits_are_the_modules_within_bfloat16(opened: Any, name: str, kv: str) -> None:
    settings, model = opened(**_SHAPES[name])
    assert model.forward.executor is not None, model.forward.module_reason
    settings = settings.with_({"kv": kv})
    ids = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    ours = forward(model, settings, ids, [40])
    theirs = forward(model, settings, ids, [40], native=False)
    spread = float(theirs.std())
    assert spread > 0.1
    assert float((ours - theirs).abs().max()) < 0.12 * spread
    assert float((ours - theirs).square().mean().sqrt()) < 0.02 * spread


def test_closer_to_float32_than_the_modules_are(opened: Any, write_config: Any) -> None:
    """The residual stream is float32, so the plan rounds less than the modules do."""
    settings, model = opened()
    ids = list(range(3, 43))
    exact = settings.with_({"weights": "fp32"})
    truth = load(exact, lambda event: None)
    for wide, narrow in zip(truth.loaded.model.parameters(), model.loaded.model.parameters(), strict=True):
        wide.data.copy_(narrow.data)
    wanted = forward(truth, exact, ids, [40], native=False)
    errors = [float((forward(model, settings, ids, [40], native=n) - wanted).square().mean())
              for n in (True, False)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("kv", ["full", "int8"])
@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_a_rows_bits_do_not_depend_on_its_company(opened: Any, weights: str, kv: str) -> None:
    settings, model = opened(weights)
    assert model.forward.executor is not None, model.forward.module_reason
    settings = settings.with_({"kv": kv})
    ids = list(range(20, 90))
    whole = forward(model, settings, ids, [70])
    for sizes in ([1] * 70, [16, 1, 9, 4, 30, 10]):
        assert torch.equal(forward(model, settings, ids, sizes), whole)


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("decoding", ["prompt_lookup", "token_recycling"])
def test_drafts_do_not_change_the_text(opened: Any, prompts: list[str], weights: str, decoding: str
                                       ) -> None:
    settings, model = opened(weights)
    for prompt in prompts[:3]:
        plain = run(model, settings, [prompt])
        drafted = run(model, settings, [prompt], decoding=decoding)
        assert drafted.tokens == plain.tokens


def test_a_draft_model_runs_natively_and_does_not_change_the_text(
        opened: Any, write_config: Any, prompts: list[str]) -> None:
    settings, model = opened()
    draft = str(write_config(**{**_WIDE, "num_hidden_layers": 1, "dtype": "bfloat16"}))
    drafted = run(model, settings, prompts[:1],
                  **{"decoding": "draft_model", "decoding.draft": draft})
    assert "native" in model.effective()["decoding.draft"].effective
    assert drafted.tokens == run(model, settings, prompts[:1]).tokens


def test_a_padded_batch_gives_what_each_sequence_gives_alone(opened: Any) -> None:
    """Logits after a prompt and a step: what is hidden at the left has no influence."""
    settings, model = opened()
    f, prompts = model.forward, [list(range(40, 60)), list(range(90, 117))]
    pads = [7, 0]
    ids = torch.tensor([[0] * pad + p for pad, p in zip(pads, prompts, strict=True)])
    places = (torch.arange(27)[None] - torch.tensor(pads)[:, None]).clamp_(min=0)
    cache, masks = model.cache(settings, 2, 40), f.masks(pads, 40)
    with torch.inference_mode():
        f(ids, places, masks.rows(0, 27), cache, 1)
        together = f(torch.tensor([[5], [5]]), places[:, -1:] + 1, masks.tree(27, [], []), cache, 1)
        together = together[:, 0].clone()
    for row, prompt in enumerate(prompts):
        alone = forward(model, settings, [*prompt, 5], [len(prompt), 1])[-1]
        assert float((together[row] - alone).abs().max()) < 0.03 * float(alone.std())


def test_effective_says_what_runs_a_step_and_why_not(opened: Any, model: Any, settings: Any) -> None:
    mine, native = opened()
    run(native, mine, ["ab"])
    assert native.effective()["executor"].effective.startswith("native, one call per forward")
    run(model, settings, ["ab"])
    assert model.effective()["executor"].effective == "module by module (float32 weights)"


@pytest.mark.parametrize(("config", "reason"), [
    ({"model_type": "gemma", "architectures": ["GemmaForCausalLM"]}, "gemma layers"),
    ({"hidden_act": "gelu"}, "the activation gelu"),
    ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic rotary"),
    ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 16},
     "sliding attention"),
])
def test_other_architectures_keep_their_modules(opened: Any, config: dict[str, Any], reason: str
                                                ) -> None:
    settings, model = opened(**config)
    assert model.forward.executor is None
    assert reason in model.forward.module_reason
    assert len(run(model, settings, ["ab"]).tokens[0]) > 0


def test_the_trace_covers_a_step_and_costs_nothing_when_off(opened: Any) -> None:
    settings, model = opened()
    f, layers = model.forward, 2
    cache = model.cache(settings, 1, 16)
    one = torch.zeros(1, 1, dtype=torch.long)
    masks = f.masks([0], 16)
    with torch.inference_mode():
        f(one, one, masks.rows(0, 1), cache, 1)
        with trace(f.executor.library) as records:
            began = time.perf_counter_ns()
            f(one, one + 1, masks.rows(1, 1), cache, 1)
            ended = time.perf_counter_ns()
        f(one, one + 2, masks.rows(2, 1), cache, 1)
    names = [f.executor.ring.names()[r.op] for r in records]
    assert len(records) == 1 + 9 * layers + 2
    assert names[0] == "embedding lookup"
    assert names[-1] == "linear output head"
    assert [r.layer for r in records] == [-1] + [0] * 9 + [1] * 9 + [-1, -1]
    assert all(began <= r.t0_ns <= r.t1_ns <= ended for r in records)
    assert all(a.t1_ns <= b.t0_ns for a, b in itertools.pairwise(records))
    head = records[-1]
    assert head.flops == 2 * 300 * 128
    assert head.bytes >= 2 * 300 * 128


def test_the_ring_keeps_the_latest(opened: Any) -> None:
    from workbench.runtime.native_trace import Ring

    settings, model = opened()
    ring = Ring(model.forward.executor.library, capacity=8)
    cache, one = model.cache(settings, 1, 16), torch.zeros(1, 1, dtype=torch.long)
    ring.arm()
    with torch.inference_mode():
        model.forward(one, one, model.forward.masks([0], 16).rows(0, 1), cache, 1)
    records = ring.drain()
    assert len(records) == 8
    assert ring.names()[records[-1].op] == "linear output head"
    assert ring.drain() == []


def test_a_full_cache_is_one_sentence(opened: Any) -> None:
    settings, model = opened()
    cache, one = model.cache(settings, 1, 1), torch.zeros(1, 2, dtype=torch.long)
    with torch.inference_mode(), pytest.raises(SettingsError, match=r"holds 1 tokens and 2 were needed"):
        model.forward(one, one, model.forward.masks([0], 1).rows(0, 2), cache, 1)


def test_cancel_between_layers(opened: Any) -> None:
    settings, model = opened()
    f, asked = model.forward, []

    class Guard:
        def check(self) -> None:
            asked.append(1)
            if len(asked) == 2:
                raise Cancelled("cancelled")

        def between_layers(self, module: Any) -> Any:
            import contextlib

            return contextlib.nullcontext()

    cache, one = model.cache(settings, 1, 4), torch.zeros(1, 1, dtype=torch.long)
    with torch.inference_mode(), pytest.raises(Cancelled), f.guarded(Guard()):
        f(one, one, f.masks([0], 4).rows(0, 1), cache, 1)
    assert len(asked) == 2
    assert cache.length == 0
    assert f.executor.check is None


def test_argmax_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 1), (3, 15), (2, 1000), (5, 32000)):
        x = torch.randn(*shape, generator=generator)
        assert torch.equal(argmax(x), x.argmax(-1))
    assert argmax(torch.tensor([[1.0, 7.0, 7.0]])).tolist() == [1]


def test_a_step_without_a_model_takes_tens_of_microseconds(opened: Any) -> None:
    """Everything of a step that is not the C call, with events and text, on a quiet moment."""
    settings, model = opened()
    events: list[Any] = []
    run(model, settings, ["abc"], events.append, **{"limits.max_new_tokens": 200})
    forwards = [e.end_s - e.start_s for e in events if isinstance(e, Phase) and e.phase == "decode"]
    times = [e.t_s for e in events if isinstance(e, Token)]
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    assert gaps[len(gaps) // 4] - sorted(forwards)[len(forwards) // 4] < 400e-6


def test_steps_use_the_executor_and_nothing_else(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, model = opened()
    called: list[str] = []
    real = Loop.run_rows

    def watched(self: Any, *args: Any) -> Any:
        handle = model.loaded.model.register_forward_pre_hook(lambda *_: called.append("module"))
        try:
            return real(self, *args)
        finally:
            handle.remove()

    monkeypatch.setattr(Loop, "run_rows", watched)
    run(model, settings, ["abc"])
    assert not called
    assert isinstance(model.forward.masks([0], 8), RowSet)
