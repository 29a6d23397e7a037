"""How a matrix of codes lies in memory for the native products, and how many bytes that is. No torch.

Rows are padded to panels of 16, columns to whole groups and to 32 (or 64 where one scale serves the row).
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.errors import SettingsError

PANEL, STEP, ROW_STEP = 16, 32, 64
#: Bytes per group and row, of the scales that have the same for all groups.
SCALE_BYTES = {"pair": 4, "bf16": 2, "e8m0": 1, "e4m3": 1, "ue5m3": 1}
#: Groups under one second-level scale, and the bytes of that.
SECTION, HEAD = 16, 16


@dataclass(frozen=True)
class Layout:
    """``kind``: "fields" (codes of ``bits`` bits), "e4m3" or "e5m2" (8-bit floats). ``scale``: "pair",
    "bf16", "row", "e8m0", "e4m3", "ue5m3" or "double". ``group`` columns share one; 0: the row.

    A number is levels[code], or the code; w = (number - middle) unit scale (+ offset of a pair)."""

    bits: int
    group: int
    scale: str
    kind: str = "fields"
    unit: float = 1.0
    middle: float = 0.0
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.group % STEP and not (self.group == 16 and self.bits == 4):
            raise SettingsError(f"groups of {self.group} columns are not stored at {self.bits} bits; choose "
                                "32, 64 or 128" + (", or 16" if self.bits == 4 else ""))

    def padded(self, columns: int) -> int:
        """Columns as stored."""
        step = max(self.group, STEP) if self.group else ROW_STEP
        return -(-columns // step) * step

    def groups(self, columns: int) -> int:
        return self.padded(columns) // self.group if self.group else 1

    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of codes and scales, padding included."""
        panels, groups = -(-rows // PANEL), self.groups(columns)
        codes = self.padded(columns) * 2 * self.bits
        if self.scale == "double":
            scales = HEAD * -(-groups // SECTION) + PANEL * groups
        else:
            scales = PANEL * (2 if self.scale == "row" else SCALE_BYTES[self.scale] * groups)
        return panels * (codes + scales)

    def bits_per_weight(self, rows: int, columns: int) -> float:
        return 8 * self.nbytes(rows, columns) / (rows * columns)


def integers(bits: int, group: int) -> Layout:
    """Codes around 2^(bits - 1) with a bfloat16 scale and offset per group."""
    return Layout(bits, group, "pair", middle=float(1 << (bits - 1)))


def bipolar(bits: int, group: int) -> Layout:
    """Odd integers -(2^bits - 1) .. 2^bits - 1 with a bfloat16 scale per group."""
    return Layout(bits, group, "bf16", unit=2.0, middle=((1 << bits) - 1) / 2)


def float4(group: int, scale: str, unit: float = 1.0) -> Layout:
    """E2M1: levels are twice their values plus 12, so integers. ``unit``: the tensor scale."""
    half = (0, 1, 2, 3, 4, 6, 8, 12)
    return Layout(4, group, scale, unit=0.5 * unit, middle=12.0,
                  levels=tuple(12 + v for v in half) + tuple(12 - v for v in half))


def normal_float(group: int) -> Layout:
    """NF4 with its scales stored twice over. Levels are rounded to 1/127 of the largest: at most 0.4 % of it
    away, where their distances are 8 % and more."""
    from workbench.formats.quantiles import NF4_LEVELS

    return Layout(4, group, "double", unit=1 / 127, middle=127.0,
                  levels=tuple(127 + round(127 * v) for v in NF4_LEVELS))


def block_float(mantissa: int, block: int) -> Layout:
    """Integers of ``mantissa`` bits under a power of two per block."""
    return Layout(mantissa, block, "e8m0", middle=float(1 << (mantissa - 1)))


def float8(kind: str, group: int) -> Layout:
    """8-bit floats, one bfloat16 scale per row (group 0) or a power of two per group."""
    return Layout(8, group, "e8m0" if group else "row", kind=kind)
