"""Whole checkpoints: written, opened again, the same numbers; refused or stopped, nothing is left."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from workbench import zoo
from workbench.calibration.grids import dequantize
from workbench.calibration.prepared import prepare
from workbench.calibration.recipe import Recipe
from workbench.cli import group as cli
from workbench.errors import Cancelled, ModelError, SettingsError, StoreError
from workbench.quantized.save import save
from workbench.runtime import load
from workbench.runtime.loading import load_model
from workbench.settings import Settings

IDS = torch.randint(0, 4096, (2, 48), generator=torch.Generator().manual_seed(0))


def settings(source: Any = "wb-1m", **changes: Any) -> Settings:
    return Settings().with_({"model.source": str(source), **changes})


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"bits": 4, "group": 32, "samples": 4, "length": 64, "symmetric": True, **changes})


CASES = [("compressed-tensors", {}), ("compressed-tensors", {"symmetric": False}),
         ("compressed-tensors", {"bits": 3, "group": 0}), ("compressed-tensors", {"rotation": True}),
         ("gptq", {}), ("gptq", {"bits": 8, "group": 0}), ("gptq", {"bits": 3, "symmetric": False}),
         ("awq", {"symmetric": False, "scaling": True})]


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=str)
def test_what_is_saved_is_what_was_calibrated(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    """Each matrix as it is opened again equals the calibrated one; the function is transformers' own with
    those matrices put in."""
    made = save(settings(), recipe(**changes), tmp_path / "out", kind)
    opened = load_model(settings(made.folder), lambda e: None)
    chosen = dataclasses.replace(recipe(**changes), integer=not recipe(**changes).symmetric)
    prepared = prepare(settings(), chosen, lambda e: None)
    assert set(opened.packed) == set(prepared.matrices())
    assert made.matrices == len(opened.packed) == 14
    reference = float_model(prepared)
    for name, module in opened.packed.items():
        q, pairs = prepared.codes(name)
        whole = dequantize(q, pairs, chosen.bits)
        # whole zero points times a bfloat16 scale do not always fit bfloat16: an eighth of a step at most
        step = float(pairs[..., 0].max())
        assert (module.dequantize() - whole).abs().max() <= (0.13 * step if chosen.integer else 0)
    with torch.no_grad():
        ours, theirs = opened.model(IDS).logits.float(), reference(IDS).logits
    assert (ours - theirs).norm() / theirs.norm() < 0.02  # bfloat16 against float32
    stated = opened.effective["weights"].effective
    assert f"{chosen.bits} bits" in stated
    assert "as the checkpoint stores them" in stated


def float_model(prepared: Any) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(zoo.path("wb-1m"), dtype=torch.float32)
    with torch.no_grad():
        for name in prepared.matrices():
            q, pairs = prepared.codes(name)
            model.get_submodule(name).weight.copy_(dequantize(q, pairs, prepared.recipe.bits))
        for name in prepared.parameters():
            value = prepared.parameter(name)
            if name == "lm_head.weight":
                model.lm_head.weight = torch.nn.Parameter(value.float())
            else:
                model.get_parameter(name).copy_(value)
    return model.eval()


@pytest.mark.parametrize(("kind", "changes"), [CASES[0], CASES[1], CASES[3]], ids=str)
def test_transformers_opens_it_too(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    made = save(settings(), recipe(**changes), tmp_path / "out", kind)
    ours = load_model(settings(made.folder), lambda e: None).model
    theirs = AutoModelForCausalLM.from_pretrained(
        made.folder, dtype=torch.bfloat16, quantization_config=CompressedTensorsConfig(dequantize=True))
    with torch.no_grad():
        a, b = ours(IDS).logits.float(), theirs(IDS).logits.float()
    assert (a - b).norm() / b.norm() < 0.02


def test_the_folder_is_whole(tmp_path: Path) -> None:
    made = save(settings(), recipe(), tmp_path / "deep" / "out")
    names = {p.name for p in made.folder.iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= names
    index = json.loads((made.folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {n for n in names if n.endswith(".safetensors")}
    assert made.nbytes == sum(p.stat().st_size for p in made.folder.iterdir())
    assert all(p.stat().st_mode & 0o044 == 0o044 for p in made.folder.iterdir())
    assert all(0 < e < 0.05 for e in made.errors.values())
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


def test_a_file_whose_groups_follow_activations_is_opened(tmp_path: Path) -> None:
    """desc_act: the same matrix with its columns dealt to groups in another order."""
    from safetensors.torch import load_file, save_file

    from workbench.quantized import bits

    made = save(settings(), recipe(), tmp_path / "out", "gptq")
    plain = load_model(settings(made.folder), lambda e: None)
    name = "model.layers.0.self_attn.q_proj"
    shard = made.folder / "model-00002-of-00003.safetensors"
    tensors = load_file(shard)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    q = bits.unpack(tensors[f"{name}.qweight"].t(), 4, 128)
    tensors[f"{name}.qweight"] = bits.pack(q[:, order], 4).t().contiguous()
    tensors[f"{name}.g_idx"] = tensors[f"{name}.g_idx"][order].contiguous()
    save_file(tensors, shard, {"format": "pt"})
    opened = load_model(settings(made.folder), lambda e: None)
    module, was = opened.packed[name], plain.packed[name]
    assert module.kernel.endswith("inputs reordered first")
    assert torch.equal(module.dequantize(), was.dequantize()[:, order])
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    torch.testing.assert_close(module(x[:, order]), was(x))


def test_generation_runs_on_an_opened_file(tmp_path: Path) -> None:
    made = save(settings(), recipe(), tmp_path / "out")
    chosen = settings(made.folder, **{"limits.max_new_tokens": 8, "telemetry.preset": "off"})
    model = load(chosen, lambda e: None)
    out = model.generate(["def add(a, b):"], chosen, lambda e: None, lambda: False)
    assert len(out.tokens[0]) == 8


def test_quantizing_what_is_quantized_is_refused(tmp_path: Path) -> None:
    made = save(settings(), recipe(), tmp_path / "out")
    with pytest.raises(SettingsError, match="quantized already"):
        load_model(settings(made.folder, weights="int4"), lambda e: None)
    with pytest.raises(SettingsError, match="quantized already"):
        save(settings(made.folder), recipe(), tmp_path / "again")


@pytest.mark.parametrize(("kind", "changes", "message"), [
    ("awq", {"bits": 3, "symmetric": False}, "AWQ files hold 4 bits with zero points"),
    ("awq", {}, "AWQ files hold 4 bits with zero points"),
    ("gptq", {"bits": 5}, "GPTQ files hold 2, 3, 4 or 8 bits"),
    ("gguf", {}, "no checkpoint format 'gguf'"),
    ("compressed-tensors", {"group": 64}, "which the group of 64 does not divide")])
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, kind: str, changes: dict[str, Any], message: str
                                              ) -> None:
    with pytest.raises(SettingsError, match=message):
        save(settings(), recipe(**changes), tmp_path / "out", kind)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreError, match="is there already"):
        save(settings(), recipe(), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("after", [3, 40])
def test_cancelled_nothing_is_left(tmp_path: Path, after: int) -> None:
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > after

    if after == 40:  # in the writing, not in the calibration
        prepare(settings(), recipe(), lambda e: None)
        asked[0] = 39
    with pytest.raises(Cancelled):
        save(settings(), recipe(), tmp_path / "out", cancelled=stop)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    made = save(settings(), recipe(), tmp_path / "out")
    wrong = Path(shutil.copytree(made.folder, tmp_path / "wrong"))
    config = json.loads((wrong / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 8
    (wrong / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="not packed as its config says"):
        load_model(settings(wrong), lambda e: None)
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (wrong / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"belongs to another config|cannot read the checkpoint"):
        load_model(settings(wrong), lambda e: None)


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["quantize", "wb-1m", str(out), "--group=32", "--samples=4", "--length=64", "--no-clip"]
    result = CliRunner().invoke(cli, [*arguments, "--method", "awq+gptq", "--format", "awq", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["matrices"] == 14
    assert found["scheme"] == "AWQ file (gemm): 4 bits, group 32, zero points"
    assert len(found["relative_output_error"]) == 14
    again = CliRunner().invoke(cli, arguments)
    assert isinstance(again.exception, StoreError)


def test_a_transposed_architecture_is_not_saved(tmp_path: Path) -> None:
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_layer": 1,
              "n_head": 2, "n_positions": 128, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    chosen = settings(tmp_path / "config.json", **{"model.weights": "random"})
    with pytest.raises(SettingsError, match="keeps its matrices transposed"):
        save(chosen, recipe(), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
