"""Calibrated weights end to end: chosen like any technique, made once, and better than rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench import zoo
from workbench.calibration.grids import dequantize
from workbench.calibration.prepared import Prepared, prepare
from workbench.calibration.recipe import Recipe
from workbench.errors import Cancelled, SettingsError
from workbench.events import Progress
from workbench.kernels import native
from workbench.runtime import load
from workbench.runtime.loading import load_model
from workbench.runtime.packed import Int4, Int8
from workbench.runtime.packed_fields import Fields
from workbench.settings import Settings

SMALL = {"weights.group": 32, "weights.samples": 4, "weights.length": 64}


def settings(weights: str, **changes: Any) -> Settings:
    return Settings().with_({"model.source": "wb-1m", "weights": weights, "telemetry.preset": "off",
                             "limits.max_new_tokens": 12, "compute.threads": 1, **changes})


@pytest.mark.parametrize(("weights", "kind"), [
    ("gptq", Int4), ("gptq(bits=3)", Fields), ("gptq(bits=8)", Int8), ("awq", Int4),
    ("awq(rounding=gptq)", Int4), ("rotation", Int4), ("rotation(rounding=nearest)", Int4)])
def test_choosing_one_runs_its_codes(weights: str, kind: type) -> None:
    chosen, seen = settings(weights).with_(SMALL), []
    model = load(chosen, seen.append)
    with prepare(chosen, chosen.weights.recipe(), seen.append) as known:  # type: ignore[attr-defined]
        for name, module in model.loaded.packed.items():
            assert isinstance(module, kind)
            q, pairs = known.codes(name)
            assert torch.equal(module.dequantize(), dequantize(q, pairs, known.recipe.bits))
        for name in known.parameters():
            expected = known.parameter(name)
            assert expected is not None
            torch.testing.assert_close(model.loaded.model.get_parameter(name).float(), expected.float(),
                                       rtol=2**-8, atol=0)
    stated = model.effective()["weights"] if isinstance(model.effective(), dict) else next(
        e for e in model.effective() if e.path == "weights")
    assert "calibrated on 4 x 64 tokens of bundled text" in stated.effective
    assert [e for e in seen if isinstance(e, Progress) and e.what == "calibrate"]
    if native.available():
        assert "native" in stated.effective
    out = model.generate(["def add(a, b):"], chosen, lambda e: None, lambda: False)
    assert len(out.tokens[0]) == 12 or out.ended[0] == "eos"


def test_the_second_load_is_from_the_cache() -> None:
    chosen, first, second = settings("gptq").with_(SMALL), [], []
    load_model(chosen, first.append)
    load_model(chosen, second.append)
    assert [e for e in first if isinstance(e, Progress) and e.what == "calibrate"]
    assert not [e for e in second if isinstance(e, Progress) and e.what == "calibrate"]


def test_cancelled_it_goes_on_next_time() -> None:
    chosen, asked = settings("gptq").with_(SMALL), [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > 9

    with pytest.raises(Cancelled):
        load_model(chosen, lambda e: None, stop)
    assert load_model(chosen, lambda e: None).packed


def test_a_group_that_does_not_divide_names_the_matrix() -> None:
    with pytest.raises(SettingsError, match="352 columns, which the group of 64 does not divide"):
        load_model(settings("gptq"), lambda e: None)


def test_a_rotated_tied_head_is_a_matrix_of_its_own() -> None:
    plain = load_model(settings("bf16"), lambda e: None)
    turned = load_model(settings("rotation").with_(SMALL), lambda e: None)
    assert plain.model.lm_head.weight is plain.model.model.embed_tokens.weight
    assert turned.model.lm_head.weight is not turned.model.model.embed_tokens.weight
    assert "shared" not in turned.effective["weights.head"].effective


def float_model(known: Prepared) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(zoo.path("wb-1m"), dtype=torch.float32).eval()
    with torch.no_grad():
        for name in known.matrices():
            q, pairs = known.codes(name)
            model.get_submodule(name).weight.copy_(dequantize(q, pairs, known.recipe.bits))
    return model


def log_probabilities(model: Any) -> torch.Tensor:
    """[tokens, vocabulary] on the beginnings of the held-out documents."""
    from transformers import AutoTokenizer

    tokenizer, parts = AutoTokenizer.from_pretrained(zoo.path("wb-1m")), []
    with torch.inference_mode():
        for document in zoo.evaluation_text():
            ids = torch.tensor(tokenizer(document.text)["input_ids"][:384])
            parts.append(model(ids[None]).logits[0].log_softmax(-1))
    return torch.cat(parts)


@pytest.mark.parametrize("bits", [3, 4])
def test_it_closes_a_good_part_of_the_gap_of_rounding(bits: int) -> None:
    """KL to the untouched model on held-out text, the small bundled model;
    benchmarks/compression/gptq.py measures perplexity on the larger one."""
    from transformers import AutoModelForCausalLM

    base = log_probabilities(AutoModelForCausalLM.from_pretrained(
        zoo.path("wb-1m"), dtype=torch.float32).eval())
    kl = {}
    for rounding in ("nearest", "gptq"):
        recipe = Recipe(bits=bits, group=32, rounding=rounding, clip=rounding == "gptq", samples=64,
                        length=128)
        with prepare(settings("gptq"), recipe, lambda e: None) as known:
            found = log_probabilities(float_model(known))
        kl[rounding] = float((base.exp() * (base - found)).sum(-1).mean())
    print(bits, kl)
    assert kl["nearest"] > 0
    assert kl["gptq"] < 0.7 * kl["nearest"]


def test_metadata_costs_no_heavy_import() -> None:
    code = ("import sys; from workbench.settings import Settings; s = Settings().with_(weights='gptq'); "
            "s.weights.recipe().title(); s.controls(); sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), cwd=Path.cwd(),
                          check=False).returncode == 0
