"""Neurons on disk: the whole share is the dense layer, windows read less, predictors beat chance."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench.errors import ModelError, SettingsError, StoreError
from workbench.structure import calibrating, checkpoint, flash, library


def mlp(hidden: int = 16, neurons: int = 48, bias: bool = False) -> SimpleNamespace:
    torch.manual_seed(0)
    return SimpleNamespace(gate_proj=nn.Linear(hidden, neurons, bias),
                           up_proj=nn.Linear(hidden, neurons, bias),
                           down_proj=nn.Linear(neurons, hidden, bias))


def dense(part, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        w = [getattr(part, n).weight.bfloat16().float() for n in ("gate_proj", "up_proj", "down_proj")]
        return (torch.nn.functional.silu(x @ w[0].T) * (x @ w[1].T)) @ w[2].T


def test_the_whole_share_is_the_dense_layer_and_is_read_once(tmp_path) -> None:
    part = mlp()
    bundles = flash.Bundles.write(tmp_path / "n.bin", part)
    made = flash.FlashMLP(flash.Predictor(16, 4, 48), bundles, share=1.0, window=2)
    x = torch.randn(2, 5, 16)
    assert torch.allclose(made(x), dense(part, x), atol=1e-5)
    assert bundles.reads == 48
    assert bundles.read_bytes == (tmp_path / "n.bin").stat().st_size


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, 47), max_size=20), min_size=1, max_size=12))
def test_the_table_always_holds_exactly_what_is_wanted(tmp_path_factory, wanted) -> None:
    bundles = flash.Bundles.write(tmp_path_factory.mktemp("t") / "n.bin", mlp())
    table, truth = flash.Table(bundles, 20), torch.empty(48, 3, 16, dtype=torch.bfloat16)
    for neuron in range(48):
        bundles.read(neuron, truth[neuron])
    before: set[int] = set()
    for now in wanted:
        assert table.hold(now) == len(now - before)
        assert set(table.slot) == now
        assert sorted(table.slot.values()) == list(range(table.live))
        for neuron, slot in table.slot.items():
            assert torch.equal(table.rows[slot], truth[neuron])
        before = now
    bundles.close()


def test_on_a_real_layer_the_predictor_and_the_window_pay(tmp_path) -> None:
    model, folder = checkpoint.read("wb-1m")
    tokens = calibrating.windows(folder, model.config, 12, 128)
    layer = model.model.layers[0]
    stream = [model.get_input_embeddings()(tokens).detach()]
    turns = model.model.rotary_emb(stream[0], torch.arange(tokens.shape[1])[None])
    seen, _ = library.observe(layer, stream, turns)
    needed = flash.important(seen["f_mid"], layer.mlp.down_proj.weight.norm(dim=0), 0.2)
    train, held = slice(0, 1024), slice(1024, None)
    predictor = flash.fit(seen["f_in"][train], needed[train], rank=32, steps=150)
    found = flash.recall(predictor, seen["f_in"][held], needed[held], 0.3)
    print(f"recall {found:.2f} with 30 % of the neurons; chance has 0.30")
    assert found > 0.5
    bundles = flash.Bundles.write(tmp_path / "layer.bin", layer.mlp)
    made = {w: flash.FlashMLP(predictor, bundles, 0.3, w) for w in (1, 4)}
    x = seen["f_in"][held][:64]
    whole = dense(layer.mlp, x)
    errors = {w: float((m(x) - whole).norm() / whole.norm()) for w, m in made.items()}
    reads = {w: m.counts.read / m.counts.needed for w, m in made.items()}
    print(errors, reads)
    assert reads[4] < reads[1] < 1
    assert errors[4] <= errors[1] < 0.9
    assert made[1].resident_bytes < made[4].resident_bytes


def test_bad_input_is_one_sentence(tmp_path) -> None:
    with pytest.raises(ModelError, match="biases"):
        flash.Bundles.write(tmp_path / "b.bin", mlp(bias=True))
    bundles = flash.Bundles.write(tmp_path / "n.bin", mlp())
    with pytest.raises(SettingsError, match="window"):
        flash.FlashMLP(flash.Predictor(16, 4, 48), bundles, 0.5, 0)
    with pytest.raises(SettingsError, match="larger"):
        flash.Table(bundles, 3).hold(range(9))
    with pytest.raises(SettingsError, match="calibration tokens"):
        flash.fit(torch.zeros(0, 16), torch.zeros(0, 48))
    (tmp_path / "n.bin").write_bytes(b"short")
    with pytest.raises(StoreError, match="size"):
        flash.Bundles(tmp_path / "n.bin", 48, 16)
