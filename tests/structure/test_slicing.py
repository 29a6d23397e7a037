"""SliceGPT: the function stays before slicing, and what is sliced opens as an ordinary folder."""

from __future__ import annotations

import pytest
import torch

from workbench import zoo
from workbench.errors import ModelError, SettingsError
from workbench.structure import calibrating, checkpoint, slicing


@pytest.fixture(scope="module")
def tiny():
    model, folder = checkpoint.read("wb-1m")
    return model, folder, calibrating.windows(folder, model.config, 16, 128)


def loss(model, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        logits = model(tokens).logits[:, :-1].double()
    return float(torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]),
                                                   tokens[:, 1:].reshape(-1)))


def test_without_slicing_the_function_stays(tiny) -> None:
    model, _, tokens = tiny
    before = {k: v.clone() for k, v in model.state_dict().items()}
    made = slicing.slice_model(model, tokens, 0.0)
    assert made.width == made.whole == model.config.hidden_size
    with torch.no_grad():
        a, b = model(tokens[:4]).logits.double(), made.model(tokens[:4]).logits.double()
    assert float((a - b).norm() / a.norm()) < 1e-4
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_more_slicing_is_smaller_and_worse_and_beats_plain_channels(tiny) -> None:
    model, _, tokens = tiny
    base = loss(model, tokens)
    found = [(slicing.slice_model(model, tokens, s)) for s in (0.125, 0.25, 0.5)]
    losses = [loss(f.model, tokens) for f in found]
    sizes = [sum(p.numel() for p in f.model.parameters()) for f in found]
    assert sizes == sorted(sizes, reverse=True)
    assert base < losses[0] < losses[1] < losses[2]
    energies = [min(f.energy) for f in found]
    assert energies == sorted(energies, reverse=True)
    # The same number of channels, but the stream's own with the least energy, zeroed in a copy.
    kept = found[1].width
    with torch.no_grad():
        hidden = torch.cat([h.reshape(-1, h.shape[-1]) for h in
                            model(tokens, output_hidden_states=True).hidden_states])
    quiet = hidden.square().sum(0).argsort()[:hidden.shape[1] - kept]
    plain, _ = checkpoint.read("wb-1m")
    with torch.no_grad():
        plain.get_input_embeddings().weight[:, quiet] = 0
        for layer in plain.model.layers:
            layer.self_attn.o_proj.weight[quiet] = 0
            layer.mlp.down_proj.weight[quiet] = 0
    assert losses[1] < loss(plain, tokens)


def test_a_sliced_folder_opens_and_writes_what_the_modules_say(tiny, tmp_path) -> None:
    from workbench.runtime import load
    from workbench.settings import Settings

    model, folder, tokens = tiny
    made = slicing.slice_model(model, tokens, 0.2)
    expected = made.model.generate(tokens[:1, :20], max_new_tokens=12, do_sample=False)[0, 20:].tolist()
    out = checkpoint.write(made.model, folder, tmp_path / "sliced", {"slice": 0.25}, dtype=None)
    settings = Settings().with_({"model": str(out), "weights": "fp32", "limits.max_new_tokens": 12,
                                 "compute.threads": 1})
    loaded = load(settings, lambda event: None, lambda: False)
    try:
        forward = loaded.forward.model
        assert forward.config.norm_width == model.config.hidden_size
        got = forward.generate(tokens[:1, :20], max_new_tokens=12, do_sample=False)[0, 20:].tolist()
    finally:
        loaded.close()
    assert got == expected


def test_a_width_that_heads_do_not_divide_survives_a_round_trip(tmp_path) -> None:
    from transformers import AutoConfig

    from workbench.runtime import structured

    assert structured.known(structured.MODEL_TYPE)
    config = structured.StructuredConfig(
        vocab_size=50, hidden_size=40, norm_width=48, shortcuts=True, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=8)
    model = structured.StructuredForCausalLM(config)
    model.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert (again.hidden_size, again.norm_width, again.head_dim) == (40, 48, 8)
    made = structured.StructuredForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.allclose(made(ids).logits, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.0, 3])
def test_impossible_shares_are_refused(tiny, share: float) -> None:
    with pytest.raises(SettingsError, match="out of range"):
        slicing.slice_model(tiny[0], tiny[2], share)


def test_nan_weights_and_taken_folders_are_refused(tiny, tmp_path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    model, folder, _ = tiny
    bad = tmp_path / "bad"
    shutil.copytree(zoo.path("wb-1m"), bad)
    tensors = load_file(bad / "model.safetensors")
    name = next(n for n in tensors if n.endswith("down_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, bad / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="NaN"):
        checkpoint.read(str(bad))
    with pytest.raises(SettingsError, match="not empty"):
        checkpoint.write(model, folder, bad, {})
