"""One scheme per matrix in one checkpoint: what is written opens as it was written, by us and by others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.cli import run_command
from workbench.errors import Cancelled, ModelError, SettingsError, StoreError
from workbench.quantized.save_plan import save_plan
from workbench.quantized.several import Groups, groups_of
from workbench.runtime.loading import load_model
from workbench.sensitivity.plan import scheme
from workbench.settings import Settings

LAYERS = [f"model.layers.{i}.{p}" for i in range(2) for p in (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
    "mlp.up_proj", "mlp.down_proj")]
MIXED = dict.fromkeys(LAYERS, "int4/group=32") | {
    "model.layers.0.mlp.down_proj": "int8", "model.layers.1.mlp.down_proj": "fp8",
    "model.layers.1.self_attn.q_proj": "bf16", "model.layers.0.self_attn.v_proj": "rtn/bits=3/group=32"}


def settings(source: Any = "wb-1m", **changes: Any) -> Settings:
    return Settings().with_({"model.source": str(source), **changes})


def chosen(choice: dict[str, str]) -> dict[str, Any]:
    return {n: scheme(s) for n, s in choice.items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_plan(settings(), chosen(MIXED), tmp_path_factory.mktemp("saved") / "deep" / "out").folder


@pytest.fixture(scope="module")
def exact() -> Any:
    from transformers import AutoModelForCausalLM

    from workbench import zoo

    return AutoModelForCausalLM.from_pretrained(zoo.path("wb-1m"), dtype=torch.float32).eval()


def expected(name: str, weight: torch.Tensor) -> torch.Tensor:
    """What the format says each matrix is, from its definition alone."""
    kind, w = MIXED[name], weight.bfloat16().float()
    if kind == "bf16":
        return w
    if kind == "fp8":
        scale = (w.abs().amax(1, keepdim=True) / 448).bfloat16().float()
        return (w / scale).to(torch.float8_e4m3fn).float() * scale
    bits, group = {"int8": (8, w.shape[1]), "int4/group=32": (4, 32), "rtn/bits=3/group=32": (3, 32)}[kind]
    parts, top = w.unflatten(1, (-1, group)), 2 ** (bits - 1) - 1
    scale = (parts.abs().amax(-1, keepdim=True) / top).bfloat16().float()
    return ((parts / scale).round().clamp(-top - 1, top) * scale).flatten(1)


def test_every_matrix_opens_as_the_format_defines_it(written: Path, exact: Any) -> None:
    opened = load_model(settings(written), lambda e: None)
    assert set(opened.packed) == set(LAYERS)
    for name, module in opened.packed.items():
        want = expected(name, exact.get_submodule(name).weight.detach())
        off = (module.dequantize() - want).abs().max()
        # a code on the border between two steps may fall to either side
        step = want.abs().max() / 3
        assert float((module.dequantize() - want).abs().mean()) < 1e-4 * float(want.abs().mean()), name
        assert off <= step, name
    kinds = {n: type(m).__name__ for n, m in opened.packed.items()}
    assert kinds["model.layers.1.self_attn.q_proj"] == "Dense"
    assert kinds["model.layers.0.mlp.down_proj"] == "Int8Codes"
    assert kinds["model.layers.1.mlp.up_proj"] == "Int4Codes"
    assert kinds["model.layers.1.mlp.down_proj"] == "Fields"
    text = opened.effective["weights"].effective
    assert "8-bit floats (E4M3)" in text
    assert "4 bits, group 32" in text


def test_transformers_gives_the_same_logits(written: Path, exact: Any) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32).eval()
    opened = load_model(settings(written), lambda e: None)
    ids = torch.randint(0, 4096, (2, 48), generator=torch.Generator().manual_seed(0))
    state = {n: exact.get_submodule(n).weight.detach().clone() for n in LAYERS}
    with torch.no_grad():
        try:
            for name, module in opened.packed.items():
                exact.get_submodule(name).weight.copy_(module.dequantize())
            assert theirs(ids).logits.allclose(exact(ids).logits, atol=1e-4)
        finally:
            for name, weight in state.items():
                exact.get_submodule(name).weight.copy_(weight)


def test_the_config_names_every_matrix_once(written: Path) -> None:
    found = json.loads((written / "config.json").read_text())["quantization_config"]
    groups = groups_of(found)
    assert found["format"] == "mixed-precision"
    assert {n for n in LAYERS if groups.of(n) is None} == {"model.layers.1.self_attn.q_proj"}
    named = [t for g in groups.groups for t in g.targets]
    assert len(named) == len(set(named)) == 13
    assert groups.of("lm_head") is None


def test_a_full_name_wins_over_a_pattern_and_a_class() -> None:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    groups = groups_of({"format": "pack-quantized", "ignore": ["re:.*lm_head"], "config_groups": {
        "a": {"targets": ["Linear"], "weights": weights},
        "b": {"targets": ["re:.*down_proj"], "weights": {**weights, "num_bits": 8}},
        "c": {"targets": ["model.layers.1.mlp.down_proj"], "weights": {**weights, "num_bits": 3}}}})
    found = [groups.of(n) for n in ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj",
                                    "model.layers.1.mlp.down_proj")]
    assert [g.scheme.bits for g in found if g is not None and g.scheme is not None] == [4, 8, 3]
    assert groups.of("lm_head") is None


def test_a_checkpoint_with_8_bit_activations_is_opened_and_says_what_is_not_done(written: Path,
                                                                                 tmp_path: Path) -> None:
    """As vLLM's FP8_DYNAMIC is stored: one group, a scale per row, activations by token."""
    folder = save_plan(settings(), chosen(dict.fromkeys(LAYERS, "fp8")), tmp_path / "fp8").folder
    config = json.loads((folder / "config.json").read_text())
    group = config["quantization_config"]["config_groups"]["group_0"]
    assert group["targets"] == ["Linear"]
    group["input_activations"] = {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}
    (folder / "config.json").write_text(json.dumps(config))
    opened = load_model(settings(folder), lambda e: None)
    assert {type(m).__name__ for m in opened.packed.values()} == {"Fields"}
    assert "activations are kept in 16 bits" in opened.effective["weights"].effective


@pytest.mark.parametrize(("change", "words"), [
    (lambda g: g["weights"].update(strategy="block"), "only channel and tensor"),
    (lambda g: g["weights"].update(num_bits=4), "only pack-quantized integer")])
def test_kinds_that_are_not_read_are_named(written: Path, tmp_path: Path, change: Any, words: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(written, folder)
    config = json.loads((folder / "config.json").read_text())
    change(next(g for g in config["quantization_config"]["config_groups"].values()
                if g["format"] == "float-quantized"))
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=words):
        load_model(settings(folder), lambda e: None)


def test_nothing_is_left_of_what_was_refused_or_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    cases: list[tuple[dict[str, str], type[Exception], str]] = [
        ({LAYERS[0]: "nf4"}, SettingsError, "has no place"),
        ({LAYERS[0]: "bf16"}, SettingsError, "nothing to"),
        ({"model.layers.9.x": "int8"}, SettingsError, "made for another model"),
        ({LAYERS[0]: "awq"}, SettingsError, "more than its matrix"),
        ({LAYERS[6]: "int4/group=128"}, SettingsError, "does not divide")]
    for choice, error, words in cases:
        with pytest.raises(error, match=words):
            save_plan(settings(), chosen(choice), folder)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(Cancelled):
        save_plan(settings(), chosen(MIXED), folder, cancelled=lambda: True)
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    with pytest.raises(StoreError, match="is there already"):
        save_plan(settings(), chosen(MIXED), folder)


def test_groups_without_any_are_refused() -> None:
    with pytest.raises(ModelError, match="no config_groups"):
        groups_of({"quant_method": "compressed-tensors"})
    assert Groups(()).of("x") is None


def test_the_command_saves_what_the_settings_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_command(["save", str(out), "-m", "wb-1m", "--weights", "int4(group=32)", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["path"], said["matrices"]) == (str(out), 14)
    opened = load_model(settings(out), lambda e: None)
    assert {type(m).__name__ for m in opened.packed.values()} == {"Int4Codes"}
    assert run_command(["save", str(out), "-m", "wb-1m", "--weights", "int8"]) != 0
    assert "is there already" in capsys.readouterr().err
