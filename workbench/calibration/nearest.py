"""Rounding to nearest at any width and shape: what a calibrated technique does where it has no
statistics (a matrix packed by itself), and how many bytes its matrices take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.calibration.grid import Grid

if TYPE_CHECKING:
    import torch

    from workbench.runtime.packed import Packed

#: A whole row as one group is padded to this many columns.
ROW_STEP = 32
#: Groups that torch's own int4 product takes where the native library is absent.
TORCH_GROUPS = (32, 64, 128, 256)


def group_of(columns: int, group: int) -> int:
    """Columns per group as stored: ``group``, or the padded row."""
    return group or -(-columns // ROW_STEP) * ROW_STEP


def pack(weight: torch.Tensor, bias: torch.Tensor | None, grid: Grid) -> Packed:
    """``weight`` [rows, columns] rounded on ``grid``; columns are padded to whole groups."""
    import torch

    from workbench.calibration.grids import round_to_nearest
    from workbench.runtime import packed
    from workbench.runtime.packed_codes import fields, nibbles_run

    rows, columns = weight.shape
    group = group_of(columns, grid.group)
    if grid.bits == 8 and not grid.group and grid.symmetric:
        return packed.Int8(weight, bias)
    if grid.bits == 4 and nibbles_run(group, weight.device):
        return packed.Int4(weight, bias, group, grid.symmetric)
    padding = -columns % group
    wide = weight.float()
    if padding:  # repeated last columns leave every group's range as it is
        wide = torch.cat((wide, wide[:, -1:].expand(rows, padding)), 1)
    q, pairs = round_to_nearest(wide, Grid(grid.bits, group, grid.symmetric))
    return fields(q, pairs, grid.bits, bias, columns, weight.device)


def stored_bytes(rows: int, columns: int, grid: Grid) -> int:
    """What :func:`pack` allocates on a CPU."""
    from workbench.formats import layout
    from workbench.kernels import native
    from workbench.kernels.w4a16_gemm.cost import weight_bytes as nibble_bytes
    from workbench.kernels.w8a16_gemm.cost import weight_bytes as byte_bytes

    group = group_of(columns, grid.group)
    if grid.bits == 8 and not grid.group and grid.symmetric:
        return byte_bytes(rows, columns)
    if grid.bits == 4 and (group in TORCH_GROUPS or (group % 32 == 0 and native.available())):
        return nibble_bytes(rows, columns, group)
    return layout.integers(grid.bits, group).nbytes(rows, columns)
