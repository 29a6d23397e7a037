"""Widened copies: the same function, exactly as large as they say, and nothing left behind on failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from workbench.errors import Cancelled, ModelError, SettingsError
from workbench.zoo.recipes import widen


def small(folder: Path, kind: str, **more: object) -> Path:
    """A random model of this kind, in float32 with weights large enough to matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(
        kind, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, vocab_size=101, max_position_embeddings=128, **more)
    model = AutoModelForCausalLM.from_config(config).float()
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.25)
    model.save_pretrained(folder)
    return folder


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(40)[None] * 7 % 101
    with torch.no_grad():
        return model(ids).logits[0]


@pytest.mark.parametrize(("kind", "tied"), [
    ("llama", True), ("llama", False), ("mistral", False), ("qwen2", True), ("qwen3", True)])
def test_the_copy_gives_the_same_logits(tmp_path: Path, kind: str, tied: bool) -> None:
    source = small(tmp_path / "source", kind, tie_word_embeddings=tied)
    made = widen.widen(source, tmp_path / "wide", width=192, layers=5, ff=128)
    before, after = logits(source), logits(tmp_path / "wide")
    assert before.std() > 1.0  # else everything would be close
    assert torch.allclose(before, after, atol=1e-4 * before.abs().max().item(), rtol=0)
    assert made["parameters"] > 12 * sum(p.numel() for p in _tensors(source)) / 3


def test_factors_that_are_no_powers_of_two_only_round(tmp_path: Path) -> None:
    source = small(tmp_path / "source", "llama")
    widen.widen(source, tmp_path / "wide", width=144)
    assert torch.allclose(logits(source), logits(tmp_path / "wide"), atol=2e-3)


def test_identity_layers_are_spread_and_named(tmp_path: Path) -> None:
    source = small(tmp_path / "source", "llama")
    widen.widen(source, tmp_path / "wide", width=96, layers=6)
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert config["widened_copy_of"]["identity_layers"] == [1, 3, 5]
    assert config["widened_copy_of"]["source"] == "source"
    assert config["num_attention_heads"] == 12
    assert config["head_dim"] == 8


def test_quantizing_the_copy_rounds_like_quantizing_the_source() -> None:
    """Groups of the source's columns come again as they are, divided by a power of two."""
    from workbench.kernels.w4a16_gemm.reference import quantize

    torch.manual_seed(0)
    matrix = torch.randn(16, 128).bfloat16()
    wide = widen.grow("self_attn.q_proj.weight", matrix, widen.Plan(4, 4, (0,)))
    codes, pairs = quantize(matrix.float(), 32, True)
    wide_codes, wide_pairs = quantize(wide.float(), 32, True)
    assert torch.equal(wide_codes[:16, :128], codes[:16, :128])
    assert torch.equal(wide_codes[:64, :512], codes[:16, :128].repeat(4, 4))
    assert not torch.equal(wide_pairs.float().abs().max(), pairs.float().abs().max())


@pytest.mark.parametrize(("changes", "says"), [
    ({"width": 100}, "no multiple"), ({"width": 96, "ff": 100}, "--ff 100"),
    ({"width": 96, "layers": 2}, "only grow")])
def test_sizes_that_cannot_be(tmp_path: Path, changes: dict[str, int], says: str) -> None:
    source = small(tmp_path / "source", "llama")
    with pytest.raises(SettingsError, match=says):
        widen.widen(source, tmp_path / "wide", **changes)
    assert not (tmp_path / "wide").exists()


def test_other_architectures_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelError, match="gpt2"):
        widen.widen(tmp_path, tmp_path / "wide", width=96)
    with pytest.raises(ModelError, match="no config"):
        widen.widen(tmp_path / "nothing", tmp_path / "wide", width=96)


def test_a_copys_draft_is_its_sources(tmp_path: Path) -> None:
    from workbench import zoo
    from workbench.runtime import load
    from workbench.settings import Settings
    from workbench.speculation.measuring import decode

    widen.widen(zoo.path("wb-14m"), tmp_path / "wide", width=768, ff=1024)
    assert zoo.widened_from(tmp_path / "wide") == "wb-14m"
    assert zoo.draft_for(str(tmp_path / "wide")) == "wb-1m"
    assert zoo.draft_for(str(tmp_path)) is None
    settings = Settings().with_({
        "model.source": str(tmp_path / "wide"), "decoding": "draft_model(fallback=false)",
        "limits.max_new_tokens": 24, "sampling.temperature": 0.0, "telemetry.preset": "off",
        "telemetry.power": False})
    model = load(settings, lambda event: None)
    found = decode(model, settings, ["Compute step by step. Start with 12. Then add 7, multiply by 3.\n"])
    plain = decode(model, settings.with_({"decoding": "plain"}),
                   ["Compute step by step. Start with 12. Then add 7, multiply by 3.\n"])
    model.close()
    assert found.ids == plain.ids
    assert found.accepted > 5  # it writes what its source writes, so the source's draft is right as often


def test_a_cancelled_copy_leaves_no_file(tmp_path: Path) -> None:
    source = small(tmp_path / "source", "llama")

    def told(done: int, total: int) -> None:
        if done > total // 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        widen.widen(source, tmp_path / "wide", width=96, told=told)
    assert list((tmp_path / "wide").iterdir()) == []


def _tensors(folder: Path) -> list[torch.Tensor]:
    source = widen.Source(folder)
    return [source.get(n) for n in source.names()]
