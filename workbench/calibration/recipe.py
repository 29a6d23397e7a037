"""What a calibrated quantization is made with: one frozen value, which is also the key of its cache."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from workbench.calibration.grid import Grid
from workbench.errors import SettingsError

#: Raised when what the calibration computes changes, so that older results are not taken for new ones.
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """``rounding``: gptq or nearest. ``scaling``: activation-aware scaling first. ``rotation``: the
    residual stream rotated first. ``clip``: search for smaller ranges. ``sequential``: inside a layer,
    later matrices see the rounding of earlier ones. ``integer``: whole zero points, as file formats
    have them. ``text``: bundled, or a text file's path."""

    bits: int = 4
    group: int = 64
    symmetric: bool = False
    rounding: str = "gptq"
    scaling: bool = False
    rotation: bool = False
    act_order: bool = True
    damp: float = 0.01
    clip: bool = False
    sequential: bool = True
    integer: bool = False
    samples: int = 128
    length: int = 512
    text: str = "bundled"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounding not in ("gptq", "nearest"):
            raise SettingsError(f"rounding={self.rounding!r} is not valid; choose gptq or nearest")
        if not 2 <= self.bits <= 8:
            raise SettingsError(f"bits={self.bits} is out of range; valid: 2 to 8")
        if self.group < 0:
            raise SettingsError(f"group={self.group} is not valid; give columns per scale, or 0 for one per "
                                "row")
        if not 1e-6 <= self.damp <= 1:
            raise SettingsError(f"damp={self.damp:g} is out of range; valid: 1e-06 to 1, and 0.01 is usual")
        if min(self.samples, self.length) < 1 or self.samples * self.length < 256:
            raise SettingsError(f"{self.samples} samples of {self.length} tokens are too little calibration "
                                "text; take at least 256 tokens")

    @property
    def grid(self) -> Grid:
        return Grid(self.bits, self.group, self.symmetric, self.clip, self.integer)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "version": VERSION}

    def title(self) -> str:
        """In words, short: "GPTQ 4 bits, group 64, act-order"."""
        steps = [name for name, on in (("rotated", self.rotation), ("AWQ scaling", self.scaling)) if on]
        method = "GPTQ" if self.rounding == "gptq" else "nearest"
        group = f"group {self.group}" if self.group else "per row"
        tail = ["act-order"] if self.rounding == "gptq" and self.act_order else []
        return ", ".join([*steps, f"{method} {self.bits} bits", group, *tail])
