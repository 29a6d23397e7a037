"""Finding, reading and writing heads; every way in which one can be missing or wrong says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.errors import ModelError, SettingsError, StoreError
from workbench.heads import files, spec
from workbench.settings import Settings


def test_a_head_is_read_as_it_was_written(heads: dict[str, Path]) -> None:
    for method, folder in heads.items():
        found, head = files.load(folder, torch.device("cpu"), torch.float32)
        again = files.build(found)
        again.load_state_dict({k: v.clone() for k, v in head.state_dict().items()})
        assert found.method == method
        assert not any(p.requires_grad for p in head.parameters())
        written = spec.HeadSpec.read(folder)
        assert written == found


def test_a_new_head_replaces_the_former_whole(heads: dict[str, Path], tmp_path: Path) -> None:
    found, head = files.load(heads["medusa"], torch.device("cpu"), torch.float32)
    folder = files.save(head, found, tmp_path / "a" / "medusa")
    (folder / "stale").write_text("of the former head")
    with torch.no_grad():
        for values in head.parameters():
            values.zero_()
    files.save(head, found, folder)
    _, again = files.load(folder, torch.device("cpu"), torch.float32)
    assert all(not v.any() for v in again.state_dict().values())
    assert sorted(p.name for p in folder.iterdir()) == [spec.SPEC, spec.WEIGHTS]
    assert [p.name for p in folder.parent.iterdir()] == ["medusa"]


def test_a_failed_write_leaves_the_former(heads: dict[str, Path], tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    found, head = files.load(heads["medusa"], torch.device("cpu"), torch.float32)
    folder = files.save(head, found, tmp_path / "medusa")
    before = (folder / spec.WEIGHTS).read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StoreError, match="free some space"):
        files.save(head, found, folder)
    assert (folder / spec.WEIGHTS).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["medusa"]


def test_damaged_weights_are_named(heads: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / spec.SPEC).write_text((heads["medusa"] / spec.SPEC).read_text())
    (tmp_path / spec.WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ModelError, match="train it again"):
        files.load(tmp_path, torch.device("cpu"), torch.float32)
    (tmp_path / spec.SPEC).write_text("{}")
    with pytest.raises(ModelError, match="is no head"):
        spec.HeadSpec.read(tmp_path)


@pytest.mark.parametrize(("head", "says"), [
    ("auto", "workbench heads train .*tiny --method medusa"), ("/nowhere", "there is no head in"),
])
def test_a_missing_head_says_how_to_train_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str,
                                              says: str) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    changes = {"model.source": "org/tiny", "decoding": {"name": "medusa", "head": head}}
    with pytest.raises(SettingsError, match=says):
        Settings().with_(changes)
    with pytest.raises(SettingsError, match="set kv=full or kv=int8"):
        Settings().with_({"decoding": "medusa", "kv": "kivi"})


def test_another_models_head_is_refused_before_anything_loads(heads: dict[str, Path]) -> None:
    """The fixture's head has another width than the bundled model."""
    from workbench.shape import from_file
    from workbench.zoo import DEFAULT, path

    why = spec.why_not(str(heads["medusa"]), "medusa", "bundled", from_file(path(DEFAULT)))
    assert why is not None
    assert "hidden width is 128" in why
    assert "workbench heads train" in why
    other = spec.why_not(str(heads["clover"]), "medusa", "bundled")
    assert other is not None
    assert "set decoding=clover" in other


def test_the_users_head_goes_before_the_bundled(heads: dict[str, Path], tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    bundled = spec.locate("auto", "medusa", "bundled")
    mine = tmp_path / "heads" / "wb-14m" / "medusa"
    mine.mkdir(parents=True)
    (mine / spec.SPEC).write_text((heads["medusa"] / spec.SPEC).read_text())
    assert spec.locate("auto", "medusa", "bundled") == mine != bundled


def test_bundled_heads_serve_the_bundled_model() -> None:
    """Each fits, and its card says of each step whether it beats a trigram; the first step must."""
    from workbench import zoo
    from workbench.shape import from_file

    shape = from_file(zoo.path(zoo.DEFAULT))
    folders = [zoo.heads() / zoo.DEFAULT / method for method in spec.METHODS]
    for folder in folders:
        found = spec.HeadSpec.read(folder)
        assert found.mismatch(shape) is None
        assert found.method == folder.name
        baseline = found.provenance["baseline"]
        assert found.hits[0][0] > baseline[0]
        card = (folder / "README.md").read_text()
        reached = [hits[0] > trigram for hits, trigram in zip(found.hits, baseline, strict=True)]
        assert card.count("| reached |") == sum(reached)
        assert card.count("| **missed** |") == len(reached) - sum(reached)
        assert json.loads((folder / "training_log.jsonl").read_text().splitlines()[-1])
    size = sum(f.stat().st_size for folder in folders for f in folder.iterdir())
    assert size < 15 * 2**20
