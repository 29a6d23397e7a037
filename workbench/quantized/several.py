"""compressed-tensors checkpoints with several schemes, or with 8-bit floats: which matrix has which.

``config_groups`` name their matrices: by full name, by ``re:`` pattern, or by class (``Linear``); a full name
wins over a pattern and a pattern over a class, as in the format's own library. Matrices that no group
names, and those in ``ignore``, are ordinary ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import ModelError
from workbench.quantized.scheme import Scheme, integers_of
from workbench.runtime.checkpoint import Checkpoint

if TYPE_CHECKING:
    from workbench.runtime.packed import Packed
    from workbench.techniques.weights import Weights

FLOAT8 = "float-quantized"


@dataclass(frozen=True)
class Group:
    """``scheme`` None: E4M3 with one scale per row or per matrix. ``note``: what is not done here."""

    targets: tuple[str, ...]
    scheme: Scheme | None
    note: str = ""

    def describe(self) -> str:
        if self.scheme is not None:
            zero = "" if self.scheme.symmetric else ", zero points"
            return f"{self.scheme.bits} bits" + (f", group {self.scheme.group}" if self.scheme.group else
                                                 ", one scale per row") + zero
        return "8-bit floats (E4M3)" + (f", {self.note}" if self.note else "")


@dataclass(frozen=True)
class Groups:
    """All of a config. Has ``describe`` as a single :class:`Scheme` has."""

    groups: tuple[Group, ...]
    ignore: tuple[str, ...] = ()

    def of(self, name: str) -> Group | None:
        """The group of a linear layer, or None where it is stored as it is."""
        if any(_hits(name, t) for t in self.ignore):
            return None
        ranked = [(_hits(name, t), g) for g in self.groups for t in g.targets]
        best = max(ranked, key=lambda r: r[0], default=(0, None))
        return best[1] if best[0] else None

    def describe(self) -> str:
        return "compressed-tensors file: " + "; ".join(g.describe() for g in self.groups)


def _hits(name: str, target: str) -> int:
    """How closely a target names a linear layer: 3 in full, 2 by pattern, 1 by class, 0 not."""
    if target.startswith("re:"):
        return 2 if re.match(target[3:], name) else 0
    return 3 if name == target else 1 if target == "Linear" else 0


def groups_of(found: dict[str, Any]) -> Groups:
    """From a ``quantization_config``. Raises ModelError where a group is of a kind that is not read."""
    made = []
    for name, group in (found.get("config_groups") or {}).items():
        weights, variant = group.get("weights") or {}, str(group.get("format") or found.get("format"))
        if variant == FLOAT8 and weights.get("type") == "float" and weights.get("num_bits") == 8:
            made.append(Group(tuple(group.get("targets", ())), None, _float8_note(name, group)))
        else:
            made.append(Group(tuple(group.get("targets", ())), integers_of(group, variant)))
    if not made:
        raise ModelError("the compressed-tensors checkpoint names no config_groups, so nothing says how its "
                         "matrices are stored")
    return Groups(tuple(made), tuple(found.get("ignore") or ()))


def _float8_note(name: str, group: dict[str, Any]) -> str:
    strategy, inputs = group["weights"].get("strategy"), group.get("input_activations")
    if strategy not in ("channel", "tensor"):
        raise ModelError(f"the compressed-tensors checkpoint's {name} has 8-bit floats by {strategy!r}; only "
                         "channel and tensor are read")
    return "its 8-bit activations are kept in 16 bits here" if inputs else ""


class SeveralFile:
    """The same interface as :class:`workbench.quantized.read.File`, and ``method`` for ordinary matrices."""

    def __init__(self, folder: Path, scheme: Groups) -> None:
        from workbench.quantized.read import File

        self.folder, self.scheme = folder, scheme
        self._files = Checkpoint.open(folder)
        self._integers = {g.scheme: File(folder, g.scheme) for g in scheme.groups if g.scheme is not None}

    def holds(self, name: str) -> bool:
        group = self.scheme.of(name)
        if group is None:
            return False
        if group.scheme is not None:
            return self._integers[group.scheme].holds(name)
        entry = self._files.entries.get(f"{name}.weight")
        return entry is not None and entry.dtype == torch.float8_e4m3fn

    def method(self, name: str) -> Weights | None:
        """How an ordinary matrix is packed; None where its codes are in the file."""
        from workbench.techniques.weights.bf16 import Bf16

        return None if self.holds(name) else Bf16()

    def pack(self, name: str, bias: torch.Tensor | None, device: torch.device,
             shape: tuple[int, int]) -> Packed:
        group = self.scheme.of(name)
        assert group is not None
        if group.scheme is not None:
            return self._integers[group.scheme].pack(name, bias, device, shape)
        return self._float8(name, bias, device, shape)

    def _float8(self, name: str, bias: torch.Tensor | None, device: torch.device, shape: tuple[int, int]
                ) -> Packed:
        """The stored codes themselves; scales become bfloat16."""
        from workbench.runtime.pack_formats import float8_codes

        if f"{name}.weight_scale" not in self._files:
            raise ModelError(f"{self.folder} has no scale of {name}; copy or download the checkpoint again")
        codes, scale = self._files.read(f"{name}.weight"), self._files.read(f"{name}.weight_scale").float()
        if codes.shape != shape or scale.numel() not in (1, shape[0]):
            raise ModelError(f"matrix {name!r} in {self.folder} is not {shape[0]} x {shape[1]}, as its "
                             "config asks for; they do not belong together")
        return float8_codes(codes.view(torch.uint8).to(device),
                            scale.reshape(-1).expand(shape[0]).to(device), bias)

    def parameters(self) -> list[str]:
        return []

    def parameter(self, name: str) -> torch.Tensor | None:
        return None

    def describe(self) -> str:
        return f"as the checkpoint stores them, {self.scheme.describe()}"

    def close(self) -> None:
        self._files.close()
        for file in self._integers.values():
            file.close()
