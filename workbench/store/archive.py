"""A bundle as one ``.zip`` file, out and in. What comes in is checked before anything is written."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from workbench.errors import StoreError
from workbench.store import record as records
from workbench.store.files import refused, sync_folder
from workbench.store.home import Store
from workbench.store.ids import is_id, new_id
from workbench.store.run import Run
from workbench.store.sources import read_table

FILES = ("run.json", "events.parquet", "output.txt", "trace.json.gz")
#: Unpacked size that is still believed to be a run: about ten million events.
MAX_BYTES = 2 << 30


def export_bundle(run: Run, path: str | Path) -> Path:
    """Write the run's folder as ``path`` (a .zip). Raises StoreError."""
    path = Path(path).expanduser()
    path = path if path.suffix == ".zip" else path.with_name(path.name + ".zip")
    if run.path is None or not run.source.ended():
        raise StoreError(f"run {run.id} has no finished bundle to export")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in FILES:
                file = run.path / name
                if file.is_file() and not file.is_symlink():
                    archive.write(file, f"{run.id}/{name}")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise refused(error, "exporting the run", path.parent) from None
    return path


def import_bundle(path: str | Path, store: Store | None = None) -> Run:
    """Add the run of a .zip to the store, under a new id when its own is taken.

    Refuses names outside the one folder, links, unknown files and oversized content; nothing of
    a refused archive stays. Raises StoreError."""
    store, path = store or Store(), Path(path).expanduser()
    try:
        with zipfile.ZipFile(path) as archive:
            return _unpack(archive, path, store)
    except FileNotFoundError:
        raise StoreError(f"there is no file {path}") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise StoreError(f"{path} is not a run archive ({error})") from None
    except OSError as error:
        raise refused(error, "importing the run", store.root) from None


def _unpack(archive: zipfile.ZipFile, path: Path, store: Store) -> Run:
    members = {PurePosixPath(m.filename).name: m for m in _checked(archive, path)}
    if "run.json" not in members:
        raise StoreError(f"{path} is not a run archive: it holds no run.json")
    record = records.loads(archive.read(members["run.json"]), f"run.json in {path}")
    if not is_id(record.id) or (store.root / record.id).exists():
        record.id = new_id()
    work, final = store.root / f".{record.id}.new", store.root / record.id
    try:
        work.mkdir(parents=True)
        for name, member in members.items():
            with archive.open(member) as source, open(work / name, "wb") as target:
                shutil.copyfileobj(source, target)
        (work / "run.json").write_bytes(records.dumps(record))
        read_table(work)
        work.rename(final)
        sync_folder(store.root)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return store.open(record.id)


def _checked(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The members to read; anything that is not one of the four files in one folder is refused."""
    members = [m for m in archive.infolist() if not m.is_dir()]
    folders = set()
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if name.is_absolute() or ".." in name.parts or len(name.parts) > 2 or link:
            raise StoreError(f"{path} was refused: {member.filename!r} points outside the run's folder")
        if name.name not in FILES:
            raise StoreError(f"{path} was refused: {member.filename!r} is not part of a run")
        folders.add(name.parent)
    if len(folders) > 1 or len(members) > len(FILES):
        raise StoreError(f"{path} was refused: it holds more than one run; import them one by one")
    if sum(m.file_size for m in members) > MAX_BYTES:
        raise StoreError(f"{path} was refused: its content is larger than {MAX_BYTES >> 30} GiB")
    return members
