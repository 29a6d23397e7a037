"""Core neurons: everything kept is plain decoding; what is dropped is not computed; all is put back."""

from __future__ import annotations

import pytest
import torch

from workbench.errors import SettingsError
from workbench.runtime import core_neurons, load
from workbench.settings import Settings


@pytest.fixture(scope="module")
def model():
    loaded = load(settings(), lambda event: None, lambda: False)
    yield loaded
    loaded.close()


def settings(**changes) -> Settings:
    return Settings().with_({"model": "wb-1m", "limits.max_new_tokens": 16, "compute.threads": 1, **changes})


def tokens(model, chosen: Settings, prompt: str = "def add(a, b):\n    return") -> list[int]:
    return list(model.generate([prompt], chosen, lambda event: None, lambda: False).tokens[0])


def test_all_neurons_are_plain_decoding(model) -> None:
    plain = tokens(model, settings(decoding="plain"))
    assert tokens(model, settings(decoding="core_neurons(share=1.0)")) == plain
    assert tokens(model, settings(decoding="plain")) == plain  # and nothing is left behind


def test_fewer_neurons_are_computed_and_the_model_is_whole_again(model) -> None:
    seen: list[int] = []
    forward = model.forward
    before = [layer.mlp.gate_proj for layer in forward.layers]
    whole, executor = forward.config.intermediate_size, forward.executor
    real = core_neurons.narrowed

    def watched(f, cores):
        seen.extend(len(c) for c in cores)
        return real(f, cores)

    core_neurons.narrowed, found = watched, []
    try:
        tokens(model, settings(decoding="core_neurons(share=0.25)"))
        found = [e for e in model.effective().values() if e.path == "decoding.share"]
    finally:
        core_neurons.narrowed = real
    assert set(seen) == {core_neurons.kept(whole, 0.25)}
    assert found
    assert f"{seen[0]} of {whole} neurons" in str(found[0].effective)
    assert [layer.mlp.gate_proj for layer in forward.layers] == before
    assert forward.config.intermediate_size == whole
    assert forward.executor is executor


def test_a_narrowed_forward_is_the_whole_one_with_the_others_silenced(model) -> None:
    forward, ids = model.forward, torch.tensor([[4, 9, 11, 30, 8]])
    ranker = core_neurons.Ranker(forward.layers, "contribution")
    with ranker.watching(), torch.no_grad():
        forward.model(ids)
    cores = ranker.cores(0.5)

    def silence(core):
        def hook(module, args):
            out = torch.zeros_like(args[0])
            out[..., core] = args[0][..., core]
            return (out,)
        return hook

    hooks = [layer.mlp.down_proj.register_forward_pre_hook(silence(core))
             for layer, core in zip(forward.layers, cores, strict=True)]
    with torch.no_grad():
        expected = forward.model(ids).logits
    for hook in hooks:
        hook.remove()
    with core_neurons.narrowed(forward, cores), torch.no_grad():
        got = forward.model(ids).logits
    assert float((got - expected).float().norm() / expected.float().norm()) < 0.02


def test_contribution_ranks_better_than_chance(model) -> None:
    """Loss of the text's second half with the neurons fixed by its first half."""
    text = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n" * 4
    ids = torch.tensor([model.encode(text)])
    half = ids.shape[1] // 2
    losses = {}
    for ranking in core_neurons.RANKINGS:
        ranker = core_neurons.Ranker(model.forward.layers, ranking)
        with ranker.watching(), torch.no_grad():
            model.forward.model(ids[:, :half])
        with core_neurons.narrowed(model.forward, ranker.cores(0.3)), torch.no_grad():
            logits = model.forward.model(ids).logits[0, half - 1:-1].float()
        losses[ranking] = float(torch.nn.functional.cross_entropy(logits, ids[0, half:]))
    print(losses)
    assert losses["contribution"] < losses["random"]


def test_what_it_cannot_be_combined_with(model) -> None:
    for change in ({"weights": "int4"}, {"limits.batch": 2}):
        with pytest.raises(SettingsError, match="core_neurons"):
            settings(decoding="core_neurons", **change)
    with pytest.raises(SettingsError, match="one prompt"):
        model.generate(["a", "b"], settings(decoding="core_neurons"), lambda event: None, lambda: False)
