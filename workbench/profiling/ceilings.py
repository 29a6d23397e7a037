"""The least time that an operator's bytes and FLOPs can take at this machine's measured rates."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.machine import this_machine
from workbench.profiling.costs import Cost

_RATES = {"bfloat16": "gemm_bf16_flops", "float16": "gemm_bf16_flops", "int8": "gemm_int8_flops",
          "uint8": "gemm_int8_flops"}


@dataclass(frozen=True)
class Ceilings:
    """``reason``: why there are no floors, empty where there are."""

    rates: dict[str, float]
    cuda: bool

    @classmethod
    def here(cls, cuda: bool) -> Ceilings:
        return cls(dict(this_machine().ceilings), cuda)

    @property
    def memory_bytes_per_s(self) -> float | None:
        return self.rates.get("gpu_bytes_per_s" if self.cuda else "ram_bytes_per_s")

    def flops_per_s(self, dtype: str) -> float | None:
        name = _RATES.get(dtype, "gemm_fp32_flops")
        return self.rates.get(f"gpu_{name}" if self.cuda else name)

    @property
    def reason(self) -> str:
        return "" if self.memory_bytes_per_s else (
            "this machine's ceilings were not measured; `workbench doctor --measure` does it")

    def floor_s(self, cost: Cost) -> float | None:
        """The larger of the two times; None when a rate is missing. Bytes are taken from memory: what
        stays in a cache can be faster than its floor, and the views say so."""
        memory, compute = self.memory_bytes_per_s, self.flops_per_s(cost.dtype)
        if memory is None or (cost.flops and compute is None):
            return None
        return max(cost.bytes / memory, cost.flops / compute if compute else 0.0)
