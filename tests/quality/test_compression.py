"""The table of weight schemes: what its figures are made of, going on after a stop, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench.cli import run_command
from workbench.errors import Cancelled, ModelError, SettingsError
from workbench.events import Progress
from workbench.quality import calibration_cost, compression
from workbench.quality.compression import known_schemes, table
from workbench.settings import Settings


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    patch.undo()


@pytest.fixture
def settings() -> Settings:
    return Settings().with_({"model.source": "wb-1m", "compute.threads": 1})


def lines(settings: Settings, schemes: list[str], folder: Path, seen: list[Any] | None = None,
          **options: Any) -> dict[str, compression.Line]:
    found = table(settings, schemes, (seen if seen is not None else []).append, lambda: False, keep=folder,
                  **options)
    return {x.scheme: x for x in found}


def test_a_line_has_size_speed_and_quality(settings: Settings, tmp_path: Path) -> None:
    found = lines(settings, ["rtn(bits=2)", "rtn(bits=5)"], tmp_path, rounds=2)
    assert list(found) == ["bf16", "rtn(bits=2)", "rtn(bits=5)"]
    two, five = found["rtn(bits=2)"], found["rtn(bits=5)"]
    assert two.row and five.row and two.speed and found["bf16"].row  # noqa: PT018
    assert two.row.nbytes < five.row.nbytes < found["bf16"].row.nbytes
    assert five.row.bits - two.row.bits >= 3 - 1e-6  # padding has bits, too
    assert (two.row.kl_mean or 0) > 10 * (five.row.kl_mean or 0)
    assert two.speed.low <= two.speed.ratio <= two.speed.high
    assert two.speed.tok_per_s > 0
    assert two.calibration == calibration_cost.Cost(0.0, 0)
    assert found["bf16"].speed is None


def test_a_stopped_table_goes_on(settings: Settings, tmp_path: Path) -> None:
    seen: list[Any] = []
    with pytest.raises(Cancelled):
        list(table(settings, ["nf4", "mxfp4"], seen.append, lambda: any(
            isinstance(e, Progress) and e.what == "speed" for e in seen), keep=tmp_path, rounds=2))
    seen.clear()
    first = lines(settings, ["nf4"], tmp_path, seen, rounds=2)
    assert not [e for e in seen if isinstance(e, Progress) and e.what == "evaluate"]  # quality was kept
    seen.clear()
    assert lines(settings, ["nf4"], tmp_path, seen, rounds=2) == first
    assert not [e for e in seen if isinstance(e, Progress) and e.what == "speed"]
    lines(settings, ["nf4"], tmp_path, seen, rounds=2, again=True)
    assert [e for e in seen if isinstance(e, Progress) and e.what == "speed"]


def test_calibration_is_measured_in_an_empty_cache(settings: Settings) -> None:
    from workbench.machine import home

    spent = calibration_cost.cost(settings.with_(weights="gptq(group=32,samples=4,length=64)"), lambda: False)
    assert spent.seconds > 0
    assert spent.peak_bytes is None or spent.peak_bytes > 1 << 20
    assert not (home() / "cache" / "calibrated").exists()


def test_a_calibration_can_be_stopped_and_says_what_failed() -> None:
    def child(code: str) -> subprocess.Popen[str]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([sys.executable, "-S", "-c", code], text=True, **pipes)

    sleeper = child("import time; time.sleep(600)")
    with pytest.raises(Cancelled):
        calibration_cost._wait(sleeper, "", lambda: True)
    assert sleeper.returncode
    with pytest.raises(ModelError, match="one sentence"):
        calibration_cost._wait(child("import sys; sys.exit('one sentence')"), "", lambda: False)


def test_a_scheme_that_fails_is_a_line_with_its_sentence(settings: Settings, tmp_path: Path) -> None:
    found = lines(settings, ["gptq", "int8"], tmp_path, speed=False)
    assert "352 columns" in found["gptq"].error  # groups of 64 do not divide this model's
    assert found["int8"].row is not None


def test_every_default_scheme_exists_and_wrong_ones_are_named(settings: Settings, tmp_path: Path) -> None:
    assert set(compression.SCHEMES) == set(known_schemes([]))
    with pytest.raises(SettingsError, match="int5"):
        known_schemes(["int5"])
    with pytest.raises(SettingsError, match="rounds"):
        lines(settings, ["int4"], tmp_path, rounds=1)


def test_the_command_prints_and_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    code = run_command(["bench", "compression", "wb-1m", "--no-speed", "--out", str(out), "--methods",
                        "int4(group=32),bipolar(bits=1,group=32)"])
    text = capsys.readouterr().out
    assert code == 0
    assert "bipolar(bits=1" in text
    data = json.loads(out.read_text())
    assert [x["scheme"] for x in data["lines"]] == ["bf16", "int4(group=32)", "bipolar(bits=1,group=32)"]
    assert data["lines"][1]["row"]["kl_mean"] > 0
    assert run_command(["bench", "compressions"]) == 2
