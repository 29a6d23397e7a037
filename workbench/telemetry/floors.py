"""The least time a layer's matrix products can take: their bytes over the measured bandwidth.

Shapes are not recorded in the light presets, so a floor is given where it is certain: the one
matmul operator that carries all of a layer's packed matrices. Anything else has no floor here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.telemetry.capture import Captured


@dataclass(frozen=True)
class Floors:
    """``layer_bytes``: packed matrices of one layer; rates are None where they were not measured."""

    layer_bytes: int
    layer_flops_per_row: int
    bytes_per_s: float | None = None
    flops_per_s: float | None = None

    @classmethod
    def of_model(cls, settings: Any, shape: Any, machine: Any, cuda: bool) -> Floors:
        packed = sum(settings.weights.storage_bytes(r, c) for _, r, c in shape.linears())
        prefix = "gpu_" if cuda else ""
        memory = "gpu_bytes_per_s" if cuda else "ram_bytes_per_s"
        return cls(packed, 2 * shape.layer_parameters, machine.ceilings.get(memory),
                   machine.ceilings.get(f"{prefix}gemm_bf16_flops"))

    def of(self, name: str, cls: str, layer: int, kind: str, rows: int, captured: Captured
           ) -> dict[str, Any]:
        """``bytes flops floor_s`` of one row, or nothing."""
        if cls != "matmul" or layer < 0:
            return {}
        rivals = [(r.total_s, n) for (at, n, k, _), r in captured.rows.items()
                  if at == layer and k == kind and _is_matmul(n)]
        if not rivals or max(rivals)[1] != name:
            return {}
        flops = self.layer_flops_per_row * rows
        if self.bytes_per_s is None or self.flops_per_s is None:
            return {"bytes": self.layer_bytes, "flops": flops}
        return {"bytes": self.layer_bytes, "flops": flops,
                "floor_s": max(self.layer_bytes / self.bytes_per_s, flops / self.flops_per_s)}


def _is_matmul(name: str) -> bool:
    from workbench.telemetry.classify import kernel_class

    return kernel_class(name) == "matmul"
