"""Small real models for the loop: random weights, wide enough logits that outputs vary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: Untied and with a large spread, so that greedy text does not fall into one repeated token.
_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 300, "max_position_embeddings": 512,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "initializer_range": 0.25,
    "dtype": "float32", "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258,
}


@pytest.fixture(scope="session")
def write_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``write_config(num_hidden_layers=1)`` -> a config.json with changes."""

    def write(**changes: Any) -> Path:
        path = tmp_path_factory.mktemp("model") / "config.json"
        path.write_text(json.dumps({**_CONFIG, **changes}))
        return path

    return write


@pytest.fixture(scope="session")
def settings(write_config: Callable[..., Path]) -> Any:
    """float32 settings of the test target, so that equality means equality."""
    from workbench.settings import Settings

    return Settings().with_({
        "model.source": str(write_config()), "model.weights": "random", "weights": "fp32",
        "limits.max_new_tokens": 40, "telemetry.preset": "off", "compute.threads": 1})


@pytest.fixture(scope="session")
def model(settings: Any) -> Any:
    """The loaded target, shared by all tests of this folder."""
    from workbench.runtime import load

    return load(settings, lambda event: None)


@pytest.fixture(scope="session")
def small_draft(write_config: Callable[..., Path]) -> Path:
    """A draft of one layer: random, so seldom right."""
    return write_config(num_hidden_layers=1, hidden_size=32, num_attention_heads=2,
                        num_key_value_heads=1)


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Fifty prompts of different lengths, some of which repeat themselves."""
    words = ["def add(a, b):", "return", "the cat", "1 2 3", "é∂", "for i in range", "{", "\n"]
    return [" ".join(words[(i * 3 + j * j) % len(words)] for j in range(1 + i % 7)) * (1 + i % 3)
            for i in range(50)]


@pytest.fixture
def generate(model: Any, settings: Any) -> Callable[..., Any]:
    """``generate(prompt, **changes) -> (output, events)``."""

    def go(prompt: str | list[str] = "def add(a, b):", **changes: Any) -> tuple[Any, list[Any]]:
        events: list[Any] = []
        chosen = settings.with_({k.replace("__", "."): v for k, v in changes.items()})
        prompts = [prompt] if isinstance(prompt, str) else prompt
        return model.generate(prompts, chosen, events.append, lambda: False), events

    return go


@pytest.fixture(scope="session")
def bundled() -> Callable[[str], Any]:
    """``bundled("bf16")`` -> (settings, the bundled target), each loaded once."""
    from tests.runtime.batches import NEW
    from workbench.runtime import load
    from workbench.settings import Settings

    held: dict[str, Any] = {}

    def get(weights: str) -> Any:
        if weights not in held:
            settings = Settings().with_({
                "weights": weights, "limits.max_new_tokens": NEW, "telemetry.preset": "off",
                "compute.threads": 1, "sampling.temperature": 0.0})
            held[weights] = settings, load(settings, lambda event: None)
        return held[weights]

    return get


@pytest.fixture(scope="session")
def alone(bundled: Any) -> Callable[[str], list[list[int]]]:
    """Plain decoding of every prompt by itself."""
    from tests.runtime.batches import kinds, run

    held: dict[str, list[list[int]]] = {}

    def get(weights: str) -> list[list[int]]:
        if weights not in held:
            settings, model = bundled(weights)
            held[weights] = [run(model, settings, [p])[0].tokens[0] for p in kinds(8)]
        return held[weights]

    return get
