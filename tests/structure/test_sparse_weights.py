"""weights=sparse end to end: made once, in the sparse kernel, better than magnitude, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from workbench import zoo
from workbench.errors import Cancelled, ModelError, SettingsError
from workbench.runtime import load
from workbench.runtime.packed_sparse import Sparse
from workbench.settings import Settings
from workbench.structure import checkpoint, judging

QUICK = "samples=12,length=128"


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))


def settings(weights: str, **changes) -> Settings:
    return Settings().with_({"model": "wb-1m", "weights": weights, "limits.max_new_tokens": 8,
                             "compute.threads": 1, **changes})


def opened(chosen: Settings, emit=lambda event: None, cancelled=lambda: False):
    return load(chosen, emit, cancelled)


def loss_of(model) -> float:
    """Of the dequantized matrices in the float32 model."""
    whole, folder = checkpoint.read("wb-1m")
    with torch.no_grad():
        for name, packed in model.loaded.packed.items():
            whole.get_submodule(name).weight.copy_(packed.dequantize())
    return judging.judge(whole, judging.held_out(folder, whole.config, 6)).loss


def test_sparsegpt_beats_magnitude_and_says_what_runs() -> None:
    found = {}
    for method in ("sparsegpt", "magnitude"):
        model = opened(settings(f"sparse(sparsity=0.6,method={method},{QUICK})"))
        try:
            packed = model.loaded.packed
            assert all(isinstance(p, Sparse) for p in packed.values())
            for p in packed.values():
                zeros = int((p.dequantize() == 0).sum())
                assert zeros >= round(0.6 * p.out_features * p.in_features)
            found[method] = loss_of(model)
            says = model.effective()["weights"].effective
            assert "60% zeros" in says
            assert ("SparseGPT" in says) == (method == "sparsegpt")
            out = model.generate(["def f("], settings(f"sparse(method={method},{QUICK})"), lambda e: None,
                                 lambda: False)
            assert len(out.tokens[0]) == 8
        finally:
            model.close()
    print(found)
    assert found["sparsegpt"] < found["magnitude"]


def test_it_is_made_once_and_a_cancelled_one_leaves_no_model(tmp_path) -> None:
    chosen = settings(f"sparse({QUICK})")
    with pytest.raises(Cancelled):
        opened(chosen, cancelled=lambda: True)
    runs: list[list[str]] = [[], []]
    for seen in runs:
        opened(chosen, emit=lambda e, seen=seen: seen.append(getattr(e, "what", ""))).close()
    assert "calibrate" in runs[0]
    assert "calibrate" not in runs[1]
    assert list((tmp_path / "home" / "cache" / "calibrated").glob("*/done"))


def test_memory_is_what_the_forecast_says() -> None:
    model = opened(settings(f"sparse(sparsity=0.8,{QUICK})"))
    try:
        technique = settings(f"sparse(sparsity=0.8,{QUICK})").weights
        assert all(p.nbytes == technique.storage_bytes(p.out_features, p.in_features)
                   for p in model.loaded.packed.values())
    finally:
        model.close()


def test_too_little_text_and_damaged_or_quantized_models_are_refused(tmp_path) -> None:
    with pytest.raises(SettingsError, match="too little"):
        opened(settings("sparse(samples=1,length=16)"))
    from safetensors.torch import load_file, save_file

    bad = tmp_path / "bad"
    shutil.copytree(zoo.path("wb-1m"), bad)
    tensors = load_file(bad / "model.safetensors")
    name = next(n for n in tensors if n.endswith("down_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, bad / "model.safetensors", {"format": "pt"})
    for method in ("sparsegpt", "magnitude"):
        with pytest.raises(ModelError, match="NaN"):
            opened(settings(f"sparse(method={method},{QUICK})", model=str(bad)))
    config = json.loads((bad / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 64}
    (bad / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="quantized already"):
        opened(settings(f"sparse({QUICK})", model=str(bad)))
