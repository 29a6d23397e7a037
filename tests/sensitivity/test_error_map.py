"""The error map: its figures against direct computation, resuming, and the plan that follows from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.errors import Cancelled, SettingsError, StoreError
from workbench.events import Event, Progress
from workbench.sensitivity import errors, plan
from workbench.sensitivity.measure import error_map
from workbench.settings import Settings

METHODS = ("int8", "int4", "int4(group=32)")
SMALL: dict[str, Any] = {"tokens": 256, "length": 64}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings().with_({"model.source": "wb-1m"})


@pytest.fixture(scope="module")
def found(home: None, settings: Settings) -> errors.ErrorMap:
    return error_map(settings, METHODS, lambda e: None, **SMALL)


def test_every_matrix_under_every_scheme(found: errors.ErrorMap) -> None:
    assert found.methods == METHODS
    assert len(found.cells) == len(found.modules) * len(METHODS)
    assert found.layers * len(found.parts) == len(found.modules)
    for cell in found.cells:
        assert cell.kl is not None
        assert cell.kl >= 0
        assert 0 < cell.weight_error < 0.02
    for fine, coarse in (("int8", "int4(group=32)"), ("int4(group=32)", "int4")):
        for a, b in zip(found.of(fine), found.of(coarse), strict=True):
            assert a.weight_error < b.weight_error
            assert a.nbytes > b.nbytes
        assert sum(c.kl or 0 for c in found.of(fine)) < sum(c.kl or 0 for c in found.of(coarse))


def test_errors_and_divergence_as_transformers_gives_them(found: errors.ErrorMap, settings: Settings) -> None:
    """One matrix in the middle: replaced in transformers' own model, on the same tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workbench import zoo
    from workbench.calibration import text

    model = AutoModelForCausalLM.from_pretrained(zoo.path("wb-1m"), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("wb-1m"))
    ids = text.draw(tokenizer, "bundled", 4, 64, 1, model.config.vocab_size).ids
    cell = next(c for c in found.of("int4") if c.module == "model.layers.1.mlp.down_proj")
    linear: Any = model.get_submodule(cell.module)
    seen: list[torch.Tensor] = []
    hook = linear.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        p = model(ids).logits.log_softmax(-1)
        hook.remove()
        exact = linear.weight.clone()
        packed: Any = settings.with_(weights="int4").weights.pack(exact, None)
        rounded = packed.dequantize()
        linear.weight.copy_(rounded)
        q = model(ids).logits.log_softmax(-1)
    x = seen[0].flatten(0, 1).double()
    true, off = x @ exact.double().T, x @ (exact - rounded).double().T
    assert cell.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert cell.output_error == pytest.approx(float(off.square().sum() / true.square().sum()), rel=1e-4)
    assert cell.weight_error == pytest.approx(
        float((exact - rounded).square().sum() / exact.square().sum()), rel=1e-4)


def test_a_cancelled_map_goes_on_where_it_was(found: errors.ErrorMap, settings: Settings, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    seen: list[Event] = []

    def enough() -> bool:
        return sum(isinstance(e, Progress) and e.what == "sensitivity" for e in seen) > 10

    with pytest.raises(Cancelled, match="goes on from there"):
        error_map(settings, METHODS, seen.append, enough, **SMALL)
    lines = next(tmp_path.rglob("*.lines"))
    kept = len(lines.read_text().splitlines())
    assert 5 < kept < len(found.cells)
    assert errors.newest(settings) is None
    with lines.open("a") as file:
        file.write('{"module": "half a li')
    seen.clear()
    again = error_map(settings, METHODS, seen.append, **SMALL)
    first = next(e for e in seen if isinstance(e, Progress) and e.what == "sensitivity")
    assert first.done == kept
    assert again == found
    assert not list(tmp_path.rglob("*.lines"))
    assert errors.newest(settings) == found


def test_a_map_in_the_cache_is_read_not_measured(found: errors.ErrorMap, settings: Settings) -> None:
    seen: list[Event] = []
    assert error_map(settings, METHODS, seen.append, **SMALL) == found
    assert seen == []


def test_a_wider_map_measures_only_what_is_new(found: errors.ErrorMap, settings: Settings) -> None:
    seen: list[Event] = []
    wider = error_map(settings, (*METHODS, "int4(group=128)"), seen.append, **SMALL)
    measured = [e.detail for e in seen if isinstance(e, Progress) and " as " in e.detail]
    assert len(measured) == len(found.modules)
    assert all(d.endswith("int4(group=128)") for d in measured)
    for method in METHODS:
        assert wider.of(method) == found.of(method)


def test_bad_requests_are_one_sentence(home: None, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="more than one matrix"):
        error_map(settings, ("awq",), lambda e: None)
    with pytest.raises(SettingsError, match="too few to tell"):
        error_map(settings, ("int8",), lambda e: None, tokens=64, length=32)
    with pytest.raises(SettingsError, match="does not divide"):
        error_map(settings, ("gptq(group=128)",), lambda e: None, **SMALL)
    broken = tmp_path / "map.json"
    broken.write_text("{}")
    with pytest.raises(StoreError, match="not an error map"):
        errors.load(broken)


def test_the_plan_beats_uniform_at_the_same_bytes(found: errors.ErrorMap) -> None:
    bits, loss = plan.uniform(found, "int4(group=32)")
    chosen = plan.choose(found, bits=bits)
    assert chosen.bits <= bits
    assert chosen.kl < loss
    assert set(chosen.choice) == set(found.modules)
    cells = {(c.module, plan.short(c.method)): c for c in found.cells}
    assert chosen.nbytes == sum(cells[m, n].nbytes for m, n in chosen.choice.items())
    assert chosen.kl == pytest.approx(sum(cells[m, n].kl or 0 for m, n in chosen.choice.items()))


def test_all_the_bits_leave_everything_exact(found: errors.ErrorMap) -> None:
    chosen = plan.choose(found, bits=16)
    assert chosen.counts() == {"bf16": len(found.modules)}
    assert (chosen.kl, chosen.bits) == (0.0, 16.0)


def test_a_budget_of_time_takes_the_slow_schemes_away(found: errors.ErrorMap) -> None:
    shapes = {(c.rows, c.columns) for c in found.cells}
    cost = {"bf16": 4.0, "int8": 2.0, "int4": 1.0, "int4/group=32": 8.0}
    times = {(*s, n): t * 1e-6 for s in shapes for n, t in cost.items()}
    matrices = len(found.modules)
    chosen = plan.choose(found, time_s=2e-6 * matrices, times=times)
    assert "int4/group=32" not in chosen.counts()
    assert chosen.time_s is not None
    assert chosen.time_s <= 2e-6 * matrices * (1 + 1e-9)
    assert plan.choose(found, time_s=1e-6 * matrices, times=times).counts() == {"int4": matrices}
    with pytest.raises(SettingsError, match="time is too short"):
        plan.choose(found, time_s=1e-7, times=times)


def test_too_few_bits_name_the_least(found: errors.ErrorMap) -> None:
    with pytest.raises(SettingsError, match=r"2 bits per weight are too few: the smallest .* takes 4\.\d+"):
        plan.choose(found, bits=2)
    without = dataclasses.replace(found, cells=tuple(dataclasses.replace(c, kl=None) for c in found.cells))
    with pytest.raises(SettingsError, match="kl=True"):
        plan.choose(without, bits=5)


def test_a_plan_on_disk(found: errors.ErrorMap, tmp_path: Path) -> None:
    chosen = plan.choose(found, bits=5.5)
    path = tmp_path / "deep" / "plan.json"
    plan.save(chosen, path)
    assert plan.load(path) == chosen
    data = json.loads(path.read_text())
    data["choice"][next(iter(data["choice"]))] = "int5"
    path.write_text(json.dumps(data))
    with pytest.raises(SettingsError, match="int5"):
        plan.load(path)
    path.write_text("[]")
    with pytest.raises(SettingsError, match="is not a plan"):
        plan.load(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        plan.load(tmp_path / "none.json")


def test_raising_a_matrix_or_a_layer(found: errors.ErrorMap) -> None:
    chosen = plan.choose(found, bits=4.8)
    up = plan.raised(chosen, {"layers.1.mlp.down_proj": "int8", "layers.0": "bf16"})
    assert up.choice["model.layers.1.mlp.down_proj"] == "int8"
    assert {up.choice[m] for m in found.modules if ".0." in m} == {"bf16"}
    changed = [m for m in found.modules if up.choice[m] != chosen.choice[m]]
    assert all(".0." in m or m.endswith("1.mlp.down_proj") for m in changed)
    with pytest.raises(SettingsError, match="matrices are called like"):
        plan.raised(chosen, {"layers.99": "int8"})
