"""Bundles as files that strangers send."""

from __future__ import annotations

import zipfile

import pytest

from workbench.errors import StoreError
from workbench.settings import Settings
from workbench.store import Run, Store, export_bundle, import_bundle


@pytest.fixture
def run(synthetic) -> Run:
    writer = Store().record(Settings(), "p", "l", environment={})
    writer.add(synthetic.plain())
    return writer.finish()


def test_out_and_in(run, tmp_path):
    path = export_bundle(run, tmp_path / "a")
    assert path.name == "a.zip"
    other = Store(tmp_path / "other")
    read = import_bundle(path, other)
    assert read.id == run.id
    assert read.events == run.events
    again = import_bundle(path, other)
    assert again.id != run.id
    assert len(other.runs()) == 2


@pytest.mark.parametrize("name", [
    "../evil/run.json", "/etc/run.json", "a/b/run.json", "..\\run.json", "a/evil.py", "x/../../run.json"])
def test_names_outside_the_folder_are_refused(run, tmp_path, name):
    path = export_bundle(run, tmp_path / "a")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "{}")
    other = Store(tmp_path / "other")
    with pytest.raises(StoreError, match="refused"):
        import_bundle(path, other)
    assert not other.root.exists() or list(other.root.iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("20260101-000000-aaaa/run.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(StoreError, match="refused"):
        import_bundle(tmp_path / "a.zip", Store(tmp_path / "other"))


def test_what_is_not_a_run(run, tmp_path):
    with pytest.raises(StoreError, match="no file"):
        import_bundle(tmp_path / "none.zip")
    (tmp_path / "b.zip").write_bytes(b"hello")
    with pytest.raises(StoreError, match="not a run archive"):
        import_bundle(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("x/run.json", (run.path / "run.json").read_bytes())
        archive.writestr("x/events.parquet", b"not parquet")
    other = Store(tmp_path / "other")
    with pytest.raises(StoreError, match="damaged"):
        import_bundle(tmp_path / "c.zip", other)
    assert other.runs() == []


def test_an_id_that_is_a_path_is_replaced(run, tmp_path):
    import json

    data = json.loads((run.path / "run.json").read_text())
    data["id"] = "../../somewhere"
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("x/run.json", json.dumps(data))
        archive.write(run.path / "events.parquet", "x/events.parquet")
    other = Store(tmp_path / "other")
    read = import_bundle(tmp_path / "d.zip", other)
    assert read.path is not None
    assert read.path.parent == other.root
    assert read.text == run.text
