"""Reading a GGUF file: metadata once, tensors by name with ``preadv`` into memory of their own."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError, WorkbenchError
from workbench.gguf import names, package

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Tensor:
    """``shape`` as torch has it ([rows, columns]); ``kind``: the block format's name, as ``Q4_0``."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class File:
    """Metadata and the table of tensors; bytes are read on request. Raises ModelError when damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = package().GGUFReader(path)
            self.fields = {k: f.contents() for k, f in reader.fields.items()}
            self.tensors = {t.name: Tensor(
                t.name, t.tensor_type.name, tuple(int(n) for n in reversed(t.shape)),
                int(t.data_offset), int(t.n_bytes)) for t in reader.tensors}
        except WorkbenchError:
            raise
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
        except Exception as error:  # the package raises whatever its parsing meets
            raise ModelError(f"{path} is not a usable GGUF file ({type(error).__name__}: "
                             f"{str(error)[:80]}); copy or download it again") from None
        size = path.stat().st_size
        for tensor in self.tensors.values():
            if tensor.offset + tensor.nbytes > size:
                raise ModelError(f"{path} is truncated: tensor {tensor.name!r} ends after the file; "
                                 "copy or download it again")

    def get(self, key: str, default: Any) -> Any:
        """Metadata of this architecture: ``get("block_count", 0)`` reads ``llama.block_count``."""
        return self.fields.get(f"{self.fields.get('general.architecture')}.{key}", default)

    def need(self, key: str) -> Any:
        value = self.get(key, None)
        if value is None:
            raise ModelError(f"{self.path} does not say its {key}, so it is damaged or very old; make "
                             "it again with a newer converter")
        return value

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ModelError(f"{self.path} has no tensor {name!r}, so it is damaged or not a language "
                             "model")
        return self.tensors[name]

    def blocks(self, name: str) -> np.ndarray:
        """The tensor's bytes as stored, uint8 [rows, bytes of a row]."""
        import numpy as np

        tensor = self.tensor(name)
        out = np.empty(tensor.nbytes, dtype=np.uint8)
        with self.path.open("rb") as file:
            done = 0
            while done < tensor.nbytes:
                count = os.preadv(file.fileno(), [out.data[done:done + (1 << 30)]],
                                  tensor.offset + done)
                if count == 0:
                    raise ModelError(f"{self.path} ended early; was it changed while being read?")
                done += count
        return out.reshape(tensor.shape[0] if len(tensor.shape) > 1 else 1, -1)

    def dequantized(self, name: str) -> np.ndarray:
        """float32, in the tensor's shape; the numbers that the blocks stand for."""
        gguf, tensor = package(), self.tensor(name)
        kind = gguf.GGMLQuantizationType[tensor.kind]
        try:
            values = gguf.quants.dequantize(self.blocks(name), kind)
        except NotImplementedError:
            raise ModelError(f"{self.path}: blocks of the kind {tensor.kind} cannot be decoded by the "
                             "installed gguf package; a newer one may") from None
        found: np.ndarray = values.reshape(tensor.shape)
        return found

    def matrix(self, name: str) -> np.ndarray:
        """As :meth:`dequantized`, by transformers' name and in its order of rows."""
        theirs = names.to_gguf(name)
        assert theirs is not None
        return self._ordered(theirs, self.dequantized(theirs))

    def _ordered(self, name: str, rows: np.ndarray) -> np.ndarray:
        heads = int(self.need("attention.head_count"))
        count = names.heads_of(name, str(self.fields["general.architecture"]), heads,
                               int(self.get("attention.head_count_kv", heads)))
        return names.separate(rows, count) if count else rows

    def ordered_blocks(self, name: str) -> tuple[str, np.ndarray]:
        """(block format, uint8 [rows, bytes of a row]) by transformers' name, in its row order."""
        theirs = names.to_gguf(name)
        assert theirs is not None
        return self.tensor(theirs).kind, self._ordered(theirs, self.blocks(theirs))

    def entries(self) -> dict[str, Tensor]:
        """transformers' name -> tensor."""
        found = {names.from_gguf(n): t for n, t in self.tensors.items()}
        return {n: t for n, t in found.items() if n is not None}

    def scheme(self) -> str:
        """How the matrices are stored: ``155 Q4_0, 1 Q6_K matrices``."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            if len(tensor.shape) > 1:
                counts[tensor.kind] = counts.get(tensor.kind, 0) + 1
        return ", ".join(f"{n} {k}" for k, n in counts.items()) + " matrices"


def open_file(path: Path) -> File:
    """The file, parsed once as long as it does not change."""
    try:
        state = path.stat()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    return _open(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4)
def _open(path: Path, changed: int, size: int) -> File:
    return File(path)
