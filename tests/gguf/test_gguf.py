"""Round trips through GGUF files: what the gguf package decodes is what our runtime multiplies by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY
from workbench.errors import Cancelled, ModelError, SettingsError
from workbench.export import gguf as export
from workbench.gguf import metadata, names, rope
from workbench.gguf.read import open_file
from workbench.settings import Settings

pytest.importorskip("gguf", reason="the gguf package is not installed")


def quiet(event: object) -> None:
    return None


def loaded(settings: Settings):
    from workbench.runtime.loading import load_model

    return load_model(settings, quiet)


def logits(model, ids):
    import torch

    with torch.inference_mode():
        return model.model(torch.tensor([ids])).logits.float()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, export.Written]:
    folder = tmp_path_factory.mktemp("gguf")
    return {kind: export.write(Settings(), folder / f"{kind}.gguf", kind)
            for kind in ("bf16", "f16", "q8_0", "q4_0")}


@pytest.fixture(scope="module")
def bundled():
    return loaded(Settings())


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_sixteen_bits_come_back_exactly(files, bundled, kind):
    again = loaded(Settings().with_({"model.source": str(files[kind].path)}))
    ids = bundled.tokenizer("def area(width, height):\n")["input_ids"]
    assert again.tokenizer("def area(width, height):\n")["input_ids"] == ids
    assert (logits(again, ids) == logits(bundled, ids)).all()


@pytest.mark.parametrize(("kind", "step"), [("q8_0", 1 / 127), ("q4_0", 1 / 8)])
def test_blocks_are_within_half_a_step_of_the_matrix(files, bundled, kind, step):
    """Every block of 32: the error is at most half of its largest magnitude divided by the levels.

    Q8_0's scale is rounded to 11 bits, which 127 steps turn into at most 0.07 of one."""
    file = open_file(files[kind].path)
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        module = bundled.model.get_submodule(name.removesuffix(".weight"))
        true = module.weight.float().numpy()
        wrong = np.abs(file.matrix(name) - true).reshape(-1, 32)
        largest = np.abs(true).reshape(-1, 32).max(1, keepdims=True)
        # Q4_0 clips the end of the grid that no magnitude reached: one step there, half elsewhere.
        assert (wrong <= largest * step * (1.01 if kind == "q4_0" else 0.57) + 1e-6).all()
        assert wrong.max() > 0


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_our_runtime_multiplies_by_what_the_file_says(files, bundled, kind):
    """Logits of the opened file equal those of a model whose matrices the reader decoded."""
    import torch

    again = loaded(Settings().with_({"model.source": str(files[kind].path), "weights": "fp32"}))
    file = open_file(files[kind].path)
    reference = loaded(Settings().with_({"weights": "fp32"}))
    with torch.no_grad():
        for name, parameter in reference.model.named_parameters():
            parameter.copy_(torch.from_numpy(file.matrix(name).copy()))
    ids = list(range(20, 60))
    torch.testing.assert_close(logits(again, ids), logits(reference, ids), atol=1e-4, rtol=1e-4)
    assert not torch.equal(logits(again, ids), logits(bundled, ids))
    assert kind.upper() in again.effective["model.source"].effective


def test_the_shape_is_read_without_torch(files):
    from workbench import zoo
    from workbench.shape import from_file

    ours, theirs = from_file(files["q4_0"].path), from_file(zoo.path(zoo.DEFAULT))
    assert (ours.layers, ours.hidden, ours.vocab, ours.kv_heads, ours.tied, ours.max_positions) == (
        theirs.layers, theirs.hidden, theirs.vocab, theirs.kv_heads, theirs.tied, theirs.max_positions)


def test_a_session_runs_a_file(files):
    import workbench

    with workbench.open(str(files["bf16"].path), inline=True) as session:
        run = session.run("The ferry", wait=True, **{"limits.max_new_tokens": 4})
        assert run.status == "done"
        assert "BF16" in run.effective["model.source"]["effective"]


def tiny(folder: Path, **changes: object) -> Settings:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**TINY, **changes}))
    return Settings().with_({"model.source": str(folder), "model.weights": "random"})


@pytest.mark.parametrize("changes", [
    {}, {"tie_word_embeddings": False}, {"rope_theta": 5e5},
    {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
     "rope_theta": 5e5},
    {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}],
    ids=["llama", "untied", "theta", "qwen2", "qwen3", "llama3-rope", "linear-rope"])
def test_architectures_come_back(tmp_path, changes):
    """Same logits at positions far enough that a wrong rotation would show."""
    import torch

    settings = tiny(tmp_path / "model", **changes)
    first = loaded(settings)
    path = export.write(settings, tmp_path / "tiny.gguf", "f32").path
    again = loaded(Settings().with_({"model.source": str(path)}))
    ids = [(7 * i) % 4096 for i in range(300)]
    torch.testing.assert_close(logits(again, ids), logits(first, ids), atol=0.02, rtol=0.02)
    turned = sorted(metadata.config_of(open_file(path)).items())
    assert dict(turned)["rope_parameters"]["rope_theta"] == changes.get("rope_theta", 10000.0)


def test_rows_are_ordered_back():
    rows = np.arange(4 * 8 * 3).reshape(32, 3)
    assert (names.separate(names.interleave(rows, 4), 4) == rows).all()
    assert not (names.interleave(rows, 4) == rows).all()
    # One head of 4 rows: halves (0 1 | 2 3) become neighbours (0 2 1 3).
    assert names.interleave(np.arange(4)[:, None], 1)[:, 0].tolist() == [0, 2, 1, 3]


def test_names_are_inverse():
    for name in ("model.layers.12.self_attn.k_norm.weight", "model.embed_tokens.weight",
                 "lm_head.weight", "model.layers.0.self_attn.q_proj.bias"):
        theirs = names.to_gguf(name)
        assert theirs is not None
        assert names.from_gguf(theirs) == name
    assert names.to_gguf("model.layers.0.mlp.experts.gate_up_proj") is None


def test_frequencies_that_no_rule_gives_are_not_guessed():
    assert rope.parameters([1.0, 3.0, 2.0, 8.0], 5e5) is None


def test_the_bundled_tokenizer_is_written_for_llama(files):
    fields = open_file(files["q8_0"].path).fields
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.pre"] == "smollm"  # digits one by one, then GPT-2's rule
    assert len(fields["tokenizer.ggml.tokens"]) == 4096
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 3]


def test_damage_is_one_sentence(tmp_path, files):
    whole = files["q4_0"].path.read_bytes()
    for name, data in {"cut": whole[:len(whole) // 2], "other": b"GGML" + whole[4:],
                       "empty": b""}.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        with pytest.raises(ModelError) as caught:
            loaded(Settings().with_({"model.source": str(path)}))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="q4_0"):
        export.write(Settings(), tmp_path / "x.gguf", "q4_00")
    with pytest.raises(ModelError, match="gpt2"):
        export.write(tiny(tmp_path / "gpt", model_type="gpt2"), tmp_path / "x.gguf", "f16")
    with pytest.raises(Cancelled):
        export.write(Settings(), tmp_path / "x.gguf", "f16", cancelled=lambda: True)
    assert not list(tmp_path.glob("x.gguf*"))


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_matrices_stay_in_the_files_blocks(files, kind):
    """weights=bf16 runs the file as it is: its blocks in memory, its numbers in every product."""
    import torch

    from workbench.kernels import native
    from workbench.runtime.packed_blocks import Blocks

    if not native.available():
        pytest.skip(native.why_not() or "-")
    source = {"model.source": str(files[kind].path)}
    blocks, exact = loaded(Settings().with_(source)), loaded(Settings().with_({**source, "weights": "fp32"}))
    assert blocks.packed
    for name, module in blocks.packed.items():
        assert isinstance(module, Blocks), name
        theirs = exact.model.get_submodule(name).weight
        assert torch.allclose(module.dequantize(), theirs, rtol=1e-6, atol=0), name
    said = blocks.effective["weights"].effective
    assert f"native {kind.upper()} blocks" in said
    assert "as the file stores them" in said
    ids = blocks.tokenizer("def area(width, height):\n")["input_ids"]
    mine, wanted = logits(blocks, ids), logits(exact, ids)
    assert (mine - wanted).norm() < 0.02 * wanted.norm()
    matrices = sum(m.nbytes for m in blocks.packed.values())
    numbers = sum(m.out_features * m.in_features for m in blocks.packed.values())
    assert matrices < numbers * (1.2 if kind == "q8_0" else 0.65)
    repacked = loaded(Settings().with_({**source, "weights": "int8"}))
    assert "decoded and then stored" in repacked.effective["model.source"].effective
