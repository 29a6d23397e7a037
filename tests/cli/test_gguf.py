"""``workbench gguf`` and ``workbench bench --limit``, through the command line's own entry."""

from __future__ import annotations

import json

import pytest

from workbench.cli import run_command


def test_a_file_is_written_and_described(tmp_path, capsys):
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    path = tmp_path / "model.gguf"
    assert run_command(["gguf", str(path), "--type", "q4_0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == path.stat().st_size
    assert "Q4_0" in said["scheme"]
    assert run_command(["gguf", str(path), "--type", "q3"]) == 2
    assert "q4_0" in capsys.readouterr().err


def test_limit_divides_a_step(capsys):
    assert run_command(["bench", "--limit", "-pp", "32", "-tg", "40", "--json",
                        "--set", "telemetry.power=false"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["steps"] >= 39
    assert row["windows"] > 0
    assert row["read_bytes_per_s"] > 1e8
    assert row["floor_s"] == pytest.approx((row["weights_bytes"] + row["kv_bytes"])
                                           / row["read_bytes_per_s"])
    parts = sum(r["seconds"] for r in row["rows"]) + row["host_s"]
    assert parts == pytest.approx(row["step_s"], rel=1e-6)
    assert {"matmul", "attention"} <= {r["name"] for r in row["rows"]}
