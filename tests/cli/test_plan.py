"""``workbench plan``: the budget is kept, the plan that it saves is the one that loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.cli import run_command
from workbench.sensitivity import plan
from workbench.settings import Settings


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    patch.undo()


QUICK = ["plan", "wb-1m", "--tokens", "256", "--methods", "int8 int4/group=64 bf16"]


def test_a_plan_under_a_budget_is_saved_and_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    assert run_command([*QUICK, "--bits", "6", "--save", str(path), "--errors", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["plan"]["bits"] <= 6
    assert len(said["cells"]) == 2 * len(said["plan"]["choice"])
    assert said["plan"]["kl"] < said["uniform"]["int4"]["kl"]
    assert plan.load(path).choice == said["plan"]["choice"]

    from workbench.runtime.model import load

    model = load(Settings().with_({"model.source": "wb-1m", "weights": "mixed", "weights.plan": str(path)}),
                 lambda e: None)
    try:
        held = sum(p.nbytes for p in model.loaded.packed.values())
        assert held == said["plan"]["nbytes"]
    finally:
        model.close()


def test_the_second_budget_and_times_measured_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*QUICK, "--ms", "1000", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["plan"]
    assert set(said["choice"].values()) == {"bf16"}
    assert 0 < said["time_s"] < 1
    assert run_command([*QUICK]) == 2  # 4.5 bits are below what padding allows on this small model
    assert "too few" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["--bits", "4", "--ms", "3"], "one budget"), (["--methods", "bf16"], "at least one scheme"),
    (["--methods", "int4/group=7"], "group"), (["--tokens", "16"], "too few")])
def test_bad_requests(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", "wb-1m", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("weights", "kind"), [
    ("bf16", "q8_0"), ("int8", "q8_0"), ("int4", "q4_1"), ("int4(symmetric=true)", "q4_0"), ("fp32", "f32"),
    ("rtn(bits=5)", "q5_0"), ("gptq(symmetric=true)", "q4_0")])
def test_gguf_blocks_follow_the_weights_setting(weights: str, kind: str) -> None:
    from workbench.cli.gguf import matching

    technique = Settings().with_(weights=weights).weights
    assert matching(technique.name(), technique.to_dict()) == kind
