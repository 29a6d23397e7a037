"""``workbench bench decoding``: figures from real generations, resumable, clear about what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.cli import run_command
from workbench.cli.bench_decoding import split_methods


def test_it_prints_every_methods_figures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    code = run_command(["bench", "decoding", "--methods", "token_recycling(nodes=8),prompt_lookup", "--kinds",
                        "math", "--each", "2", "-r", "1", "-n", "24", "--json", "--out", str(out)])
    assert code == 0
    data = json.loads(capsys.readouterr().out)
    assert data["rows"] == json.loads(out.read_text())["rows"]
    assert not out.with_name(out.name + ".state").exists()
    rows = {(r["method"], r["kind"]): r for r in data["rows"]}
    found = rows["token_recycling(nodes=8)", "all"]
    assert found["new"] == 2 * 23
    assert found["same"] == found["runs"] == 2
    assert found["per_forward"] > 1.0 == rows["plain", "all"]["per_forward"]
    assert found["extra_bytes"] > 0
    assert found["ratio"] > 0
    assert data["settings"]["sampling"]["temperature"] == 0.0


def test_the_table_names_methods_and_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "decoding", "--methods", "input_copy,token_recycling", "--kinds", "edit",
                        "--each", "1", "-r", "1", "-n", "12"]) == 0
    said = capsys.readouterr()
    assert "input_copy" in said.out
    assert "edit" in said.out
    assert said.out.index("token_recycling") < said.out.index("the fastest first")
    [total] = [line for line in said.out.splitlines() if line.startswith("token_recycling ") and "/" in line]
    kept, drafted = map(int, total.split()[3].split("/"))  # on one line, in 80 columns
    assert 0 <= kept < drafted
    assert "1/1" in said.out
    assert "tokens per verification" in said.err


@pytest.mark.parametrize(("arguments", "says"), [
    (["--kinds", "poems"], "no kind of prompt 'poems'"), (["--methods", "prompt_lookpu"], "prompt_lookup"),
    (["--prompts", "/nowhere/at/all"], "no folder")])
def test_bad_values_are_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "decoding", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error.splitlines()[-1]


def test_methods_with_arguments_are_split_at_commas_outside() -> None:
    assert split_methods("a(x=1,y=2), b ,c(z=3)") == ["a(x=1,y=2)", "b", "c(z=3)"]


def test_bench_without_a_part_is_still_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "drafting"]) == 2
    assert "bench decoding" in capsys.readouterr().err
