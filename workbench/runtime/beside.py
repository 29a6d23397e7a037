"""A folder that is whole or absent: filled beside its place, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import StoreError


def check(folder: Path) -> None:
    """Whether ``folder`` can be made at all; asked before hours of work. Raises StoreError."""
    shutil.rmtree(_aside(folder), ignore_errors=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, which takes its name at the end; gone where anything failed.

    ``folder`` must be absent or empty. Raises StoreError where the disk refuses."""
    from safetensors import SafetensorError

    aside = _aside(folder)
    try:
        yield aside
        for path in (aside, *aside.rglob("*")):  # temporary folders and shards are private
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.is_dir():
            folder.rmdir()
        aside.replace(folder)
    except OSError as error:
        raise _refused(folder, error) from None
    except SafetensorError as error:  # a full disk, as that library says it
        raise StoreError(f"{folder} cannot be written ({error}); free some space or choose another folder"
                         ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise _refused(folder, error) from None


def _refused(folder: Path, error: OSError) -> StoreError:
    return StoreError(f"{folder} cannot be written ({error.strerror or error}); free some space or choose "
                      "another folder")
