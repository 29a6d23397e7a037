"""A small target with random weights and heads made for it, so that equality is the only thing tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

METHODS = ("medusa", "clover", "eagle", "dovetail", "hidden_transfer", "ppd")

#: Untied and with a large spread, so that greedy text does not fall into one repeated token.
_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "head_dim": 32,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 192, "vocab_size": 300, "max_position_embeddings": 512,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "initializer_range": 0.08,
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258,
}


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """``opened("bf16")`` -> (settings, model), loaded once."""
    from workbench.runtime import load
    from workbench.settings import Settings

    path = tmp_path_factory.mktemp("target") / "config.json"
    held: dict[str, Any] = {}

    def get(weights: str) -> Any:
        if weights not in held:
            dtype = {"fp32": "float32", "bf16": "bfloat16"}[weights]
            path.write_text(json.dumps({**_CONFIG, "dtype": dtype}))
            settings = Settings().with_({
                "model.source": str(path), "model.weights": "random", "weights": weights,
                "limits.max_new_tokens": 40, "telemetry.preset": "off", "compute.threads": 1})
            held[weights] = settings, load(settings, lambda event: None)
        return held[weights]

    return get


@pytest.fixture(scope="session")
def heads(opened: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """method -> folder of a head with random weights for that target."""
    import torch

    from workbench.heads import files
    from workbench.heads.target import Target

    _, model = opened("fp32")
    folder, target = tmp_path_factory.mktemp("heads"), Target(model.loaded.model)
    found = {}
    for method in METHODS:
        torch.manual_seed(3)
        spec = files.default_spec(method, target, "test")
        head = files.build(spec)
        with torch.no_grad():  # zero matrices would make steps that guess alike
            for values in head.parameters():
                values.add_(0.05 * torch.randn_like(values))
        found[method] = files.save(head, spec, folder / method)
    return found


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    return ["The captain said that", "def add(a, b):\n    return", "1 2 3 4 5 6 7 8 9 and then", "x"]
