"""Hidden states between two layers, on disk: one file per layer boundary, whole or absent.

Read and written by plain system calls, so that they never count as resident memory.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from workbench.errors import StoreError


class States:
    """[samples, length, width] in ``dtype`` in ``folder``, before layer ``index``."""

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self._row = shape[1] * shape[2] * dtype.itemsize

    def path(self, index: int) -> Path:
        return self.folder / f"states-{index:04d}.bin"

    def there(self, index: int) -> bool:
        path = self.path(index)
        return path.is_file() and path.stat().st_size == self._row * self.shape[0]

    def read(self, index: int, start: int, count: int) -> torch.Tensor:
        """Samples ``start`` to ``start + count``. Raises StoreError."""
        out = torch.empty(min(count, self.shape[0] - start), *self.shape[1:], dtype=self.dtype)
        flat = out.view(-1).view(torch.uint8).numpy().data
        with self.path(index).open("rb", buffering=0) as file:
            done = 0
            while done < len(flat):
                got = os.preadv(file.fileno(), [flat[done:]], start * self._row + done)
                if got == 0:
                    raise StoreError(f"{self.path(index)} is shorter than it was written; start the "
                                     "calibration again")
                done += got
        return out

    def drop(self, index: int) -> None:
        with contextlib.suppress(OSError):
            self.path(index).unlink()


class Writing:
    """The states before layer ``index`` as they come; renamed into place by :meth:`done`."""

    def __init__(self, states: States, index: int) -> None:
        self._states, self._final = states, states.path(index)
        self._aside = self._final.with_suffix(".part")
        self._file = self._aside.open("wb", buffering=0)

    def add(self, hidden: torch.Tensor) -> None:
        flat = hidden.to(self._states.dtype).contiguous().view(-1).view(torch.uint8).numpy().data
        done = 0
        while done < len(flat):
            done += self._file.write(flat[done:])

    def done(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        self._aside.replace(self._final)

    def close(self) -> None:
        """After an error: nothing half-written stays."""
        if not self._file.closed:
            self._file.close()
            with contextlib.suppress(OSError):
                self._aside.unlink()
