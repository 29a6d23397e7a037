"""Rotations and scales leave the function as it is; what they change is what rounding sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.calibration import hadamard, scaling, walk
from workbench.calibration.grid import Grid
from workbench.calibration.layers import Layer, Opened
from workbench.calibration.prepared import prepare
from workbench.calibration.recipe import Recipe
from workbench.calibration.rotation import Rotation, write_outside
from workbench.calibration.statistics import Statistics
from workbench.calibration.text import Samples
from workbench.calibration.walk import Pass
from workbench.errors import SettingsError
from workbench.runtime.loading import load_model
from workbench.settings import Settings

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128,
    "vocab_size": 300, "max_position_embeddings": 256, "tie_word_embeddings": True,
    "initializer_range": 0.1}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "tie_word_embeddings": False}
QWEN3 = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
IDS = torch.randint(0, 300, (8, 48), generator=torch.Generator().manual_seed(1))


def checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A real checkpoint with outlier channels, uneven norms and biases."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    kind = config["model_type"]
    made = AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"})
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.exp(0.5 * torch.randn_like(parameter)))
                if parameter.numel() == 96:
                    parameter[5] *= 12
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(IDS).logits
    return out


def original(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class Keeper:
    """Writes the (changed) matrices themselves, so that a model can be put together again."""

    def __init__(self, scale: Grid | None = None) -> None:
        self.scale = scale
        self.chosen: list[dict[str, float]] = []

    def passes(self, groups: list[list[str]]) -> list[Pass]:
        return [Pass("scales", tuple(n for g in groups for n in g))] if self.scale else []

    def observed(self, layer: Layer, done: Pass, statistics: dict[str, Statistics]) -> None:
        assert self.scale is not None
        self.chosen.append(scaling.scale_layer(layer, statistics, self.scale, 16))

    def keep(self, layer: Layer) -> dict[str, torch.Tensor]:
        return {n: p.detach().clone() for n, p in layer.module.named_parameters()}


def rebuilt(folder: Path, out: Path) -> Any:
    """The original with everything that ``out`` holds put in, by name; the head untied if it is there."""
    from safetensors.torch import load_file

    model = original(folder)
    with torch.no_grad():
        for file in sorted(out.glob("*.safetensors")):
            for name, value in load_file(file).items():
                if name == "lm_head.weight":
                    model.lm_head.weight = torch.nn.Parameter(value)
                else:
                    model.get_parameter(name).copy_(value)
    return model


@pytest.mark.parametrize("config", [LLAMA, QWEN2, QWEN3], ids=["llama tied", "qwen2 biases", "qwen3"])
def test_a_rotated_model_is_the_same_function(tmp_path: Path, config: dict[str, Any]) -> None:
    folder, out = checkpoint(tmp_path / "model", config), tmp_path / "out"

    def turn(opened: Opened) -> None:
        opened.change = rotation = Rotation(96, 16)
        write_outside(opened, rotation, out / "outside.safetensors")

    settings = Settings().with_({"model.source": str(folder)})
    walk.walk(settings, Samples(IDS, "random", 0, ()), Keeper(), out, {}, lambda e: None, prepare=turn)
    before, after = logits(original(folder)), logits(rebuilt(folder, out))
    difference = (after - before).norm() / before.norm()
    assert difference < 1e-4
    # and it did turn: the outlier channel's share of a reading matrix is gone
    was = original(folder).model.layers[0]
    folded = was.self_attn.q_proj.weight * was.input_layernorm.weight
    now = rebuilt(folder, out).model.layers[0].self_attn.q_proj.weight
    assert peak(now) < 0.7 * peak(folded)


def peak(weight: torch.Tensor) -> float:
    """Largest weight over the RMS."""
    return float((weight.detach().abs().amax(1) / weight.detach().square().mean(1).sqrt()).mean())


@pytest.mark.parametrize("config", [LLAMA, QWEN2], ids=["grouped heads", "biases"])
def test_a_rescaled_model_is_the_same_function(tmp_path: Path, config: dict[str, Any]) -> None:
    folder, out = checkpoint(tmp_path / "model", config), tmp_path / "out"
    settings, keeper = Settings().with_({"model.source": str(folder)}), Keeper(Grid(3, 32))
    walk.walk(settings, Samples(IDS, "random", 0, ()), keeper, out, {}, lambda e: None)
    before, after = logits(original(folder)), logits(rebuilt(folder, out))
    assert (after - before).norm() / before.norm() < 1e-4
    assert any(exponent > 0 for chosen in keeper.chosen for exponent in chosen.values())
    assert not torch.equal(rebuilt(folder, out).model.layers[0].input_layernorm.weight,
                           original(folder).model.layers[0].input_layernorm.weight)


@pytest.mark.parametrize("size", [1, 2, 4, 12, 16, 20, 24, 28, 36, 44, 60, 96, 384, 576, 896])
def test_hadamard_matrices(size: int) -> None:
    h = hadamard.hadamard(size)
    assert h is not None
    assert set(h.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(h @ h.T, size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("size", [7, 22, 92, 384])
def test_any_width_gets_an_orthogonal_matrix(size: int) -> None:
    q, kind = hadamard.orthogonal(size, 0)
    torch.testing.assert_close(q @ q.T, torch.eye(size, dtype=torch.float64))
    assert kind == ("randomized Hadamard" if size == 384 else "random orthogonal")
    assert torch.equal(q, hadamard.orthogonal(size, 0)[0])
    assert not torch.equal(q, hadamard.orthogonal(size, 1)[0])


TINY = Recipe(bits=4, group=16, samples=8, length=64, rounding="nearest", sequential=False)


@pytest.fixture
def outliers(tmp_path: Path) -> Path:
    """A checkpoint with a tokenizer, so that text goes through it."""
    from workbench import zoo

    folder = checkpoint(tmp_path / "model", {**LLAMA, "vocab_size": 4096})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((zoo.path("wb-1m") / name).read_bytes())
    return folder


@pytest.mark.parametrize("changes", [{"scaling": True}, {"rotation": True},
                                     {"rotation": True, "scaling": True, "rounding": "gptq"}])
def test_they_help_where_channels_stand_out(outliers: Path, changes: dict[str, Any]) -> None:
    """Against plain rounding on the same model: a reading matrix's output, and the logits, are nearer."""
    settings = Settings().with_({"model.source": str(outliers), "weights": "fp32"})
    ids = IDS % 4096
    with torch.no_grad():
        want = original(outliers)(ids).logits
    error, local = {}, {}
    for label, recipe in (("plain", TINY), ("changed", dataclasses.replace(TINY, **changes))):
        local[label] = float(prepare(settings, recipe, lambda e: None).report()[
            "model.layers.0.self_attn.q_proj"][0])
        model = assembled(settings, recipe)
        with torch.no_grad():
            error[label] = float((model(ids).logits - want).norm() / want.norm())
    assert local["changed"] < 0.95 * local["plain"]
    assert error["changed"] < error["plain"]


def assembled(settings: Settings, recipe: Recipe) -> Any:
    """The model as the workbench loads it, computing in float32."""
    from unittest.mock import patch

    from workbench.techniques.weights.fp32 import Fp32

    def made(self: Any, settings: Settings, emit: Any, cancelled: Any) -> Any:
        return prepare(settings, recipe, emit, cancelled)

    with patch.object(Fp32, "prepare", made):
        return load_model(settings, lambda e: None).model


def test_others_are_refused_in_one_sentence(tmp_path: Path) -> None:
    import json

    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_layer": 1,
              "n_head": 2, "n_positions": 128, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = Settings().with_({"model.source": str(tmp_path / "config.json"), "model.weights": "random"})
    with pytest.raises(SettingsError, match="type 'gpt2' cannot be rotated or rescaled exactly"):
        prepare(settings, dataclasses.replace(TINY, rotation=True), lambda e: None)
