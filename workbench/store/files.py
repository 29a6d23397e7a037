"""Files that are either whole or absent: write aside, flush to the device, rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from workbench.errors import StoreError


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` in one step. Raises OSError; on failure nothing is left behind."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(3)}")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` last through a power failure, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refused(error: OSError, what: str, where: Path) -> StoreError:
    """The sentence for an operating-system error: what failed and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(f"{what} failed: the disk that holds {where} is full; free some space "
                          "or set WORKBENCH_HOME to another disk. Finished runs are not affected")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(f"{what} failed: {where} is not writable; set WORKBENCH_HOME to a "
                          "folder that is")
    return StoreError(f"{what} failed at {where}: {error.strerror or error}")


class Lock:
    """An advisory lock that the operating system drops when its process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(self) -> bool:
        """True when nobody else holds it."""
        try:
            import fcntl

            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not POSIX
            return self._acquire_windows()
        except OSError:
            return False
        return True

    def _acquire_windows(self) -> bool:
        import importlib

        msvcrt = importlib.import_module("msvcrt")
        try:
            msvcrt.locking(self._handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._handle)
