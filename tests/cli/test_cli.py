"""The command line as a user meets it: data on stdout, one line for an error, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench.cli import COMMANDS, run_command


def cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run_command(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def tiny(config: Path, *more: str) -> list[str]:
    return ["run", "--model", str(config), "--set", "model.weights=random", "--prompt", "def f(",
            "--max-new-tokens", "8", "--json", *more]


def data(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = cli(capsys, *arguments)
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize(("arguments", "expected"), [
    (["run", "--set", "weights=int5"], "valid: .*bf16.*int4"),
    (["run", "--weights", "int5"], "no weights technique 'int5'"),
    (["run", "--set", "gamma=0"], "valid: 1 to 32"),
    (["run", "--set", "temperatur=1"], "did you mean 'temperature'"),
    (["run", "--set", "weights"], "is not NAME=VALUE"),
    (["run", "--settings", "absent.yaml"], "cannot read absent.yaml"),
    (["run", "--frobnicate"], "No such option"),
    (["frobnicate"], "no command 'frobnicate'.*valid: demo, run"),
    (["techniques", "int3"], "no technique 'int3'"),
    (["export", "--to", "cobol"], "no format 'cobol'.*vllm"),
    (["bench", "--against", "weights=int9"], "no weights technique 'int9'"),
    (["serve", "--port", "99999999"], "port"),
    (["demo", "--quality", "superb"], "choose one of off, quick, full"),
    (["replay", "x", "--speed", "-1"], "negative"),
])
def test_a_bad_value_is_one_line_and_exit_code_2(
        arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    code, out, err = cli(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert re.search(expected, err), err


@pytest.mark.parametrize("arguments", [
    ["compare", "nothing"], ["report", "nothing"], ["replay", "nothing"], ["export", "nothing"],
    ["run", "--model", "no-such-folder/"]])
def test_what_is_not_there_is_one_line_and_exit_code_1(
        arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = cli(capsys, *arguments)
    assert code == 1
    assert len(err.strip().splitlines()) == 1


def test_models_and_techniques_list_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    models = data(capsys, "models", "--json")
    assert any(m["default"] and m["draft"] for m in models)
    assert all(Path(m["path"], "config.json").is_file() and m["parameters"] > 0 for m in models)
    found = {f"{t['family']}/{t['name']}": t for t in data(capsys, "techniques", "--json")}
    assert {"weights/int4", "kvcache/int8", "tiers/stream", "decoding/draft_model"} <= set(found)
    for technique in found.values():
        assert technique["summary"]
        assert all(c["help"] for c in technique["controls"])


def test_doctor_names_what_follows_from_what_is_absent(
        capsys: pytest.CaptureFixture[str]) -> None:
    checks = data(capsys, "doctor", "--json")["checks"]
    assert {"processor", "memory", "GPU energy (NVML)", "torch"} <= {c["what"] for c in checks}
    assert all(c["follows"] for c in checks if c["state"] == "absent")


@pytest.mark.parametrize("target", ["python", "yaml", "json", "vllm", "llama-server", "schema"])
def test_export_writes_every_format(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = data(capsys, "export", "--weights", "int4", "--to", target, "--json")
    assert found["text"].strip()
    assert found["settings"]["weights"]["name"] == "int4"


def test_run_compare_report_replay_runs(tiny_config: Path, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    """One journey: two runs on a random model, then everything that reads them."""
    base = data(capsys, *tiny(tiny_config))
    assert base["requested"]["weights"] == {"name": "bf16"}
    assert base["effective"]["weights"]["effective"]
    assert base["metrics"]["new_tokens"]["value"] <= 8
    assert base["text"]
    other = data(capsys, *tiny(tiny_config, "--weights", "int4", "--label", "four bits"))
    assert other["label"] == "four bits"

    compared = data(capsys, "compare", base["id"], "last", "--json")
    assert compared["baseline"] == base["id"]
    assert compared["runs"][1]["settings_changed"]["weights"] == ["bf16", "int4"]
    assert compared["runs"][1]["ratio"]["tok_per_s"] > 0

    html = tmp_path / "r.html"
    assert data(capsys, "report", base["id"], other["id"], "-o", str(html), "--json")["path"]
    assert "four bits" in html.read_text()

    code, out, _ = cli(capsys, "replay", other["id"], "--speed", "0")
    assert code == 0
    assert other["text"] in out

    assert [r["id"] for r in data(capsys, "runs", "--json")] == sorted([base["id"], other["id"]])
    assert cli(capsys, "runs", "--label", base["id"], "renamed")[0] == 0
    assert cli(capsys, "runs", "--delete", other["id"])[0] == 0
    left = data(capsys, "runs", "--json")
    assert [(r["id"], r["label"]) for r in left] == [(base["id"], "renamed")]


def test_a_failed_run_exits_with_1_and_one_line(tiny_config: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = cli(capsys, *tiny(tiny_config, "--max-new-tokens", "100000"))
    assert code == 1
    assert "8192" in err  # the model's positions
    assert json.loads(out)["status"] == "failed"


def test_bench_interleaves_and_reports_spread(tiny_config: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    found = data(capsys, "bench", "--model", str(tiny_config), "--set", "model.weights=random",
                 "-pp", "32", "-tg", "8", "-r", "2", "--against", "weights=int8", "--json")
    names = [row["name"] for row in found["rows"]]
    assert names == ["baseline", "weights=int8"]
    assert all(len(row["samples"]) == 2 and row["tg"]["mean"] > 0 for row in found["rows"])
    assert found["rows"][0]["tg_ratio"] == 1.0


def test_help_is_quick_and_lists_every_command() -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "workbench.cli", "--help"],
                          capture_output=True, text=True, timeout=60, env={**os.environ})
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    assert not any(f"| {heavy}\n" in done.stderr.replace(" ", "").replace("|", "| ")
                   for heavy in ("torch", "polars", "panel"))
