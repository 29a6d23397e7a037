"""Mixed precision through loading: what the plan says is what multiplies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.errors import ModelError, SettingsError
from workbench.runtime.model import load
from workbench.sensitivity import errors, plan
from workbench.settings import Settings


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    patch.undo()


def opened(**changes: Any) -> Any:
    settings = Settings().with_({"model.source": "wb-1m", "weights": "mixed", "weights.tokens": 256,
                                 "weights.methods": "int8 int4/group=64 int4/group=128",
                                 **{f"weights.{k}": v for k, v in changes.items()}})
    return settings, load(settings, lambda e: None)


def test_the_plan_is_what_runs_and_effective_says_so() -> None:
    settings, model = opened(bits=6.0, raised="layers.0.self_attn.q_proj:bf16")
    try:
        found = errors.newest(settings)
        assert found is not None
        chosen = plan.choose(found, bits=6.0)
        size = {(c.module, plan.short(c.method)): c.nbytes for c in found.cells}
        for name, packed in model.loaded.packed.items():
            want = "bf16" if name.endswith("layers.0.self_attn.q_proj") else chosen.choice[name]
            kind = type(packed).__name__.lower()
            assert kind == ("dense" if want == "bf16" else want.split("/")[0])
            assert want == "bf16" or packed.nbytes == size[name, want]
        assert len(model.loaded.packed) == len(found.modules)
        text = model.loaded.effective["weights"].effective
        assert "mixed precision" in text
        assert len(chosen.counts()) > 1
        out = model.generate(["def main("], settings.with_({"limits.max_new_tokens": 4}),
                             lambda e: None, lambda: False)
        assert len(out.tokens[0]) == 4
    finally:
        model.close()


def test_calibrated_codes_take_part(tmp_path: Path) -> None:
    """A plan with GPTQ matrices loads the very codes that gptq alone would."""
    names = [f"model.layers.{i}.{p}" for i in range(2) for p in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
        "mlp.up_proj", "mlp.down_proj")]
    gptq = "gptq/group=32/samples=8/length=64"
    choice = {n: (gptq if n.endswith("down_proj") else "int8") for n in names}
    path = tmp_path / "plan.json"
    plan.save(plan.Plan(choice, 1, 5.0, 0.0), path)
    _, mixed = opened(plan=str(path))
    alone = load(Settings().with_({"model.source": "wb-1m", "weights": str(plan.scheme(gptq))}),
                 lambda e: None)
    try:
        name = "model.layers.1.mlp.down_proj"
        assert mixed.loaded.packed[name].dequantize().equal(alone.loaded.packed[name].dequantize())
        assert type(mixed.loaded.packed["model.layers.1.mlp.up_proj"]).__name__ == "Int8"
    finally:
        mixed.close()
        alone.close()


def test_a_plan_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(plan.Plan({"model.layers.0.mlp.up_proj": "int8"}, 1, 8.0, 0.0), path)
    with pytest.raises(ModelError, match="made for another model"):
        opened(plan=str(path))


@pytest.mark.parametrize(("changes", "words"), [
    ({"bits": 2.0}, "too few"), ({"raised": "layers.0=int8"}, "MATRIX:SCHEME"),
    ({"raised": "layers.77:int8"}, "matrices are called like"), ({"plan": "/nowhere.json"}, "cannot be read"),
    ({"methods": "int8 int9"}, "int9"), ({"methods": "bf16"}, "at least one scheme")])
def test_what_cannot_be_done_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        opened(**changes)
