"""Opening a quantized checkpoint: its matrices as modules that run the stored codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from workbench.errors import ModelError
from workbench.quantized import layouts
from workbench.quantized.scheme import Scheme, scheme_of
from workbench.quantized.several import SeveralFile
from workbench.runtime.checkpoint import Checkpoint
from workbench.runtime.packed import Packed
from workbench.runtime.packed_codes import Reordered, module_of

if TYPE_CHECKING:
    from workbench.runtime.sources import Source


class File:
    """The same interface as a calibrated model (``holds``, ``pack``, ``parameters``, ``parameter``,
    ``describe``, ``close``): loading does not care which one it has."""

    def __init__(self, folder: Path, scheme: Scheme) -> None:
        self.folder, self.scheme = folder, scheme
        self._files = Checkpoint.open(folder)
        self._first = layouts.FIRST[scheme.format]

    @classmethod
    def of(cls, source: Source) -> File | SeveralFile | None:
        """Of a resolved model, or None where its config names no quantization. Raises ModelError."""
        scheme = None if source.random or source.gguf is not None else scheme_of(source.config)
        if scheme is None or isinstance(scheme, Scheme):
            return None if scheme is None else cls(source.folder, scheme)
        return SeveralFile(source.folder, scheme)

    def holds(self, name: str) -> bool:
        return f"{name}.{self._first}" in self._files

    def codes(self, name: str, shape: tuple[int, int]) -> layouts.Codes:
        """q uint8 [rows, columns], scale float32 and zero uint8 [rows, groups]. Raises ModelError."""
        try:
            found = layouts.read(lambda key: self._files.read(f"{name}.{key}"),
                                 lambda key: f"{name}.{key}" in self._files, self.scheme, shape)
        except (KeyError, RuntimeError, IndexError) as error:
            raise ModelError(f"matrix {name!r} in {self.folder} is not packed as its config says "
                             f"({type(error).__name__}); copy or download the checkpoint again") from None
        rows, columns = shape
        groups = columns // (self.scheme.group or columns)
        if found[0].shape != shape or found[1].shape != (rows, groups) or found[2].shape != (rows, groups):
            raise ModelError(f"matrix {name!r} in {self.folder} is not {rows} x {columns}, as its config "
                             "asks for; they do not belong together")
        return found

    def pack(self, name: str, bias: torch.Tensor | None, device: torch.device,
             shape: tuple[int, int]) -> Packed:
        q, scale, zero = self.codes(name, shape)
        order = self._order(name, shape[1])
        if order is not None:
            q = q[:, order]
        middle = 1 << (self.scheme.bits - 1)
        pairs = torch.stack((scale, (middle - zero.float()) * scale), -1).permute(1, 0, 2).contiguous()
        made = module_of(q.contiguous(), pairs, self.scheme.bits, bias, device)
        return made if order is None else Reordered(made, order.to(device))

    def _order(self, name: str, columns: int) -> torch.Tensor | None:
        """For files whose groups follow activations (desc_act): columns group by group."""
        key = f"{name}.{layouts.ORDER.get(self.scheme.format, '')}"
        return layouts.order(self._files.read(key) if key in self._files else None, self.scheme, columns)

    def parameters(self) -> list[str]:
        """Nothing is changed beside the matrices."""
        return []

    def parameter(self, name: str) -> torch.Tensor | None:
        return None

    def describe(self) -> str:
        rounded = "" if self.scheme.symmetric else "; zero points times scales are rounded to bfloat16"
        return f"as the checkpoint stores them, {self.scheme.describe()}{rounded}"

    def close(self) -> None:
        self._files.close()
