"""Folders that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from workbench.calibration.recipe import Recipe
from workbench.cli import run_command
from workbench.errors import SettingsError, StoreError
from workbench.runtime import beside


def test_it_appears_when_it_is_complete_and_everybody_may_read_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with beside.filling(tmp_path / "deep" / "new") as aside:
        assert not (tmp_path / "deep" / "new").exists()
        save_file({"a": torch.ones(2)}, aside / "a.safetensors")
        (aside / "inner").mkdir()
        (aside / "inner" / "b").write_text("b")
    made = tmp_path / "deep" / "new"
    assert made.stat().st_mode & 0o777 == (made / "inner").stat().st_mode & 0o777 == 0o755
    assert (made / "a.safetensors").stat().st_mode & 0o777 == 0o644
    assert [p.name for p in made.parent.iterdir()] == ["new"]


def fail(place: Path, error: BaseException) -> None:
    with beside.filling(place) as aside:
        (aside / "a").write_text("a")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(28, "No space left")])
def test_what_fails_half_way_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(StoreError if isinstance(error, OSError) else type(error)) as seen:
        fail(tmp_path / "new", error)
    assert not isinstance(error, OSError) or "No space left" in str(seen.value)
    assert not list(tmp_path.iterdir())


def test_safetensors_own_error_is_a_sentence_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(StoreError, match="cannot be written"), beside.filling(tmp_path / "new") as aside:
        save_file({"a": torch.ones(2)}, aside / "missing" / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [
    "quantize wb-1m OUT --group 32", "save OUT --model wb-1m --set weights=int8",
    "models prune wb-1m OUT --depth 1", "models slice wb-1m OUT --share 0.1",
    "bench compression wb-1m --methods int8 --no-speed --out OUT/table.json"])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
        arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    def work(*args: object, **options: object) -> None:
        raise AssertionError("work began before the place was known to be writable")

    for name in ("workbench.quantized.save.prepare", "workbench.quantized.save_plan._Writing",
                 "workbench.structure.checkpoint.read", "workbench.quality.compression.study"):
        monkeypatch.setattr(name, work)
    blocked = tmp_path / "file"
    blocked.write_text("a file, so no folder can be made in it")
    assert run_command([a.replace("OUT", str(blocked / "out")) for a in arguments.split()]) == 1
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert said.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("changes", "said"), [
    ({"damp": -1.0}, "damp"), ({"group": -64}, "group"), ({"samples": -16, "length": -512}, "too little")])
def test_a_recipe_refuses_what_makes_no_sense(changes: dict[str, float], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Recipe(**changes)
