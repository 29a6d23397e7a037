"""Which numbers a weight may become: bits, groups, symmetry. No torch: settings are made of it."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.errors import SettingsError


@dataclass(frozen=True)
class Grid:
    """``group`` columns share a scale; 0: the whole row. ``clip``: search for a smaller range."""

    bits: int
    group: int = 0
    symmetric: bool = False
    clip: bool = False
    integer: bool = False

    @property
    def middle(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def lowest(self) -> int:
        """The first code in use: symmetric bytes keep to -127 .. 127, as the int8 kernels do."""
        return 1 if self.symmetric and self.bits == 8 else 0

    @property
    def top(self) -> int:
        return (1 << self.bits) - 1

    def width(self, columns: int) -> int:
        """Columns per group of a matrix that has ``columns``. Raises SettingsError."""
        group = self.group or columns
        if columns % group:
            raise SettingsError(f"{columns} columns are not a multiple of the group of {group}; choose a "
                                "group that divides them, or group=0 for one scale per row")
        return group

    def bits_per_weight(self, columns: int) -> float:
        """Stored bits with scale and offset (16 each per group)."""
        return self.bits + 32 / self.width(columns)
