"""The untouched model's log-probabilities on disk: written once, compared with many times.

``<name>.npy`` holds [tokens, V]: float32, or float16 when float32 would pass half a GiB (its
rounding then adds up to 1e-3 to a KL). ``<name>.json`` says what they are and of which tokens. Both
are written beside and renamed, the array last: if it is there, it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import StoreError
from workbench.units import format_bytes

_FLOAT32_LIMIT = 1 << 29


def tokens_key(windows: list[list[int]]) -> str:
    """Same tokens in the same windows, same letters."""
    text = json.dumps(windows, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Writer:
    """Fills the array row by row; ``close(done=True)`` makes it appear under its name."""

    def __init__(self, path: Path, rows: int, vocab: int, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self._partial = path.with_name(path.name + f".{os.getpid()}.partial")
        self._row = 0
        dtype = np.dtype(np.float32 if rows * vocab * 4 <= _FLOAT32_LIMIT else np.float16)
        need = rows * vocab * dtype.itemsize
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
            if need > free:
                raise StoreError(self._full(need, free))
            self._array = np.lib.format.open_memmap(
                self._partial, mode="w+", dtype=dtype, shape=(rows, vocab))
        except OSError as error:
            raise StoreError(self._sentence(error, need)) from None

    def _full(self, need: int, free: int) -> str:
        return (f"the reference log-probabilities need {format_bytes(need)} in {self.path.parent} and "
                f"{format_bytes(free)} is free; free some space or set WORKBENCH_HOME to another disk")

    def _sentence(self, error: OSError, need: int) -> str:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._full(need, shutil.disk_usage(self.path.parent).free)
        return f"the reference cannot be written to {self.path} ({error.strerror}); check the folder"

    def add(self, logprobs: np.ndarray) -> None:
        """Append [n, V] rows."""
        self._array[self._row:self._row + len(logprobs)] = logprobs
        self._row += len(logprobs)

    def close(self, done: bool) -> None:
        try:
            if done:
                self._array.flush()
                sidecar = self.path.with_suffix(".json")
                sidecar.with_suffix(".json.partial").write_text(json.dumps(self.about))
                os.replace(sidecar.with_suffix(".json.partial"), sidecar)
                os.replace(self._partial, self.path)
        except OSError as error:
            raise StoreError(self._sentence(error, 0)) from None
        finally:
            del self._array
            with contextlib.suppress(OSError):
                self._partial.unlink()


class Reader:
    """Rows in the order they were written, or from a row on (``seek``).

    Raises StoreError when they are of other tokens."""

    def __init__(self, path: Path, rows: int, vocab: int, key: str) -> None:
        again = "delete it and evaluate the reference again"
        try:
            self._array = np.load(path, mmap_mode="r")
            self.about: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"the reference {path} cannot be read ({type(error).__name__}); {again}"
                             ) from None
        if self._array.shape != (rows, vocab) or self.about.get("tokens") != key:
            raise StoreError(f"the reference {path} was made from other texts or another tokenizer; "
                             f"{again}")
        self._row = 0

    def seek(self, row: int) -> None:
        """The next rows are those from ``row`` on."""
        self._row = row

    def next(self, n: int) -> np.ndarray:
        """The next [n, V] rows, float32."""
        rows = np.array(self._array[self._row:self._row + n], dtype=np.float32)
        self._row += n
        return rows
