"""``workbench power``: honest without sensors, nothing changed without consent, one line for an error."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.telemetry.test_power_limits import PYNVML
from workbench.cli import run_command
from workbench.energy import status
from workbench.events import Metric
from workbench.machine import Gpu, Machine
from workbench.telemetry import power


def cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run_command(["power", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without GPU and counters, whatever this one has."""
    monkeypatch.setattr(status, "this_machine", lambda: Machine("a cpu", 2, 1 << 30))
    monkeypatch.setattr(power, "RAPL", tmp_path / "none")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One GPU that is a file."""
    (tmp_path / "pynvml.py").write_text(PYNVML)
    state = tmp_path / "gpu.json"
    state.write_text(json.dumps({"limit": 650000, "clock": None, "log": []}))
    monkeypatch.setenv("FAKE_GPU", str(state))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec = importlib.util.spec_from_file_location("fake_pynvml", tmp_path / "pynvml.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    machine = Machine("a cpu", 2, 1 << 30, (Gpu(0, "NVIDIA Fake", 1 << 30),))
    monkeypatch.setattr(status, "this_machine", lambda: machine)
    monkeypatch.setattr(status, "nvml", lambda: module)
    return state


def changes(state: Path) -> list[int]:
    return json.loads(state.read_text())["log"]


@pytest.mark.usefixtures("bare")
def test_status_without_sensors_is_a_reason_not_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = cli(capsys, "status", "--json")
    found = json.loads(out)
    assert code == 0
    assert [s["available"] for s in found["sensors"]] == [False]
    assert "no RAPL counter" in found["sensors"][0]["words"][0]
    assert found["limits"] == []
    assert "no NVIDIA GPU" in found["limits_reason"]
    code, out, _ = cli(capsys, "status")
    assert "no RAPL counter" in out


@pytest.mark.usefixtures("bare")
def test_idle_without_sensors_fails_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = cli(capsys, "idle", "--seconds", "2")
    assert (code, out) == (1, "")
    assert "no RAPL counter" in err


@pytest.mark.usefixtures("bare")
def test_a_sweep_without_a_gpu_is_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = cli(capsys, "sweep", "--values", "300", "--json")
    assert code == 0
    assert json.loads(out) == {
        "dry_run": True, "reason": "this machine has no NVIDIA GPU, so there is no power limit or clock to "
        "change", "calls": ["nvmlDeviceSetPowerManagementLimit(gpu0, 300000 mW)  =  nvidia-smi -i 0 -pl 300"]}


def test_a_sweep_without_consent_prints_what_it_would_do(gpu: Path, capsys: pytest.CaptureFixture[str]
                                                         ) -> None:
    code, out, _ = cli(capsys, "sweep", "--values", "300,400")
    assert code == 0
    assert "Dry run, nothing was changed" in out
    assert "nvidia-smi -i 0 -pl 300" in out
    assert "restore: nvmlDeviceSetPowerManagementLimit(gpu0, 650000 mW)" in out
    assert "--yes-change-power-limit" in out
    assert changes(gpu) == []


@pytest.mark.parametrize(("typed", "goes_on"), [("gpu0\n", True), ("yes\n", False), ("\n", False)])
def test_typed_consent_is_the_devices_name(gpu: Path, capsys: pytest.CaptureFixture[str], typed: str,
                                           goes_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from workbench.cli import power_sweep

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt="": typed.strip())
    run_through(monkeypatch, power_sweep)
    code, out, _ = cli(capsys, "sweep", "--values", "300,600", "--rounds", "1")
    assert code == 0
    assert ("Dry run" not in out) is goes_on
    assert bool(changes(gpu)) is goes_on
    assert json.loads(gpu.read_text())["limit"] == 650_000


def run_through(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Runs of the model answer at once: less power, fewer joules, the same speed."""
    from workbench.energy import sweep

    seen: list[float] = []

    def once(session: Any, prompt: str) -> dict[str, Metric]:
        seen.append(1.0)
        return {"tok_per_s": Metric(name="tok_per_s", value=50.0),
                "j_per_token": Metric(name="j_per_token", value=10.0 - len(seen), se=0.01)}

    monkeypatch.setattr(module, "_once", once)
    monkeypatch.setattr(module, "open_session", lambda settings: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(sweep, "SETTLE_S", 0.0)
    monkeypatch.setattr(sweep.time, "sleep", lambda s: None)


def test_with_consent_the_knee_is_found_and_the_limit_restored(
        gpu: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.cli import power_sweep

    run_through(monkeypatch, power_sweep)
    code, out, err = cli(capsys, "sweep", "--values", "300,600", "--rounds", "1", "--json",
                         "--yes-change-power-limit")
    assert code == 0, err
    found = json.loads(out)
    assert found["knee"] == 300
    assert [p["j_per_token"] for p in found["points"]] == [8.0, 9.0]
    assert changes(gpu) == [600_000, 300_000, 650_000]


def test_a_failed_run_in_a_sweep_restores_too(gpu: Path, capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.cli import power_sweep
    from workbench.errors import EngineError

    run_through(monkeypatch, power_sweep)

    def fail(session: Any, prompt: str) -> Any:
        raise EngineError("the engine died")

    monkeypatch.setattr(power_sweep, "_once", fail)
    code, _, err = cli(capsys, "sweep", "--values", "300", "--yes-change-power-limit")
    assert code == 1
    assert "the engine died" in err
    assert json.loads(gpu.read_text())["limit"] == 650_000


def test_oversubscribe_over_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("t_s,watts\n" + "\n".join(f"{i},{450 if i % 30 < 3 else 280}" for i in range(600)))
    code, out, err = cli(capsys, "oversubscribe", "--trace", str(path), "--hours", "0.5", "--json",
                         "--extra", "0,0.2")
    assert code == 0, err
    found = json.loads(out)
    assert found["basis"] == "recorded: t.csv"
    assert [o["servers"] for o in found["outcomes"]] == [40, 48]
    assert found["row_w"] > 40 * 280


@pytest.mark.parametrize(("arguments", "code", "expected"), [
    (["oversubscribe"], 1, "--trace FILE.csv or --run RUN"),
    (["oversubscribe", "--modelled", "--extra", "x"], 2, "list of shares"),
    (["oversubscribe", "--modelled", "--t1", "0.95"], 1, "thresholds must rise"),
    (["oversubscribe", "--trace", "absent.csv"], 1, "cannot read absent.csv"),
    (["model", "--product", "1,2"], 2, "M,N,K"),
    (["model", "--product", "8,8,8"], 1, "power model --measure"),
    (["sweep", "--values", "a"], 2, "list of numbers"),
    (["nonsense"], 2, "no power command 'nonsense'")])
@pytest.mark.usefixtures("bare")
def test_errors_are_one_line(arguments: list[str], code: int, expected: str,
                             capsys: pytest.CaptureFixture[str]) -> None:
    got, out, err = cli(capsys, *arguments)
    assert got == code
    assert out == ""
    assert expected in err
    assert len(err.strip().splitlines()) == 1


def test_the_model_is_measured_kept_and_asked(capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Really measured, on this machine, for a few seconds (small products only)."""
    from workbench.energy import gemm_fit, gemm_measure

    monkeypatch.setattr(gemm_measure, "ROTATE_BYTES", 1 << 20)
    monkeypatch.setattr(gemm_fit, "_MOST_FLOPS", {"cpu": 1e8, "cuda": 1e8})
    code, out, err = cli(capsys, "model", "--measure", "--seconds", "20", "--shapes", "20", "--json")
    assert code == 0, err
    first = json.loads(out)
    assert first["count"] >= 30
    assert {e["split"] for e in first["errors"]} == {"shapes held out", "largest held out", "rows at random"}
    code, out, _ = cli(capsys, "model", "--product", "16,256,256", "--product", "16,4096,4096", "--json")
    small, large = json.loads(out)["predictions"]
    assert 0 < small["seconds"] < large["seconds"]
    assert json.loads(out)["measured_on"] == first["measured_on"]
    if first["power"] is None:
        assert first["power_reason"]
        assert small["joules"] is None
