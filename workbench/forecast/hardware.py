"""Rates of machines: measured where they were measured, else from the vendors' datasheets.

Datasheet rates are peaks that no program reaches; ``derate`` is the share that memory-bound decoding
reaches in practice. Every value that comes from here is shown as "catalogue, estimated".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.machine import Machine


@dataclass(frozen=True)
class Rates:
    """``memory_bytes_per_s``: of the compute tier; ``flops``: dense bf16; ``dispatch_s``: host time
    per operator; ``link_bytes_per_s``: RAM to GPU; ``disk_bytes_per_s``: sequential reads;
    ``watts``: board power of a GPU, None where unknown."""

    memory_bytes_per_s: float
    flops: float
    dispatch_s: float
    link_bytes_per_s: float
    disk_bytes_per_s: float
    watts: float | None
    basis: str
    measured: bool
    #: Weights technique -> stored bytes/s of its matrix-vector product, where it was measured.
    products: dict[str, float] = field(default_factory=dict)

    def product_bytes_per_s(self, weights: str) -> float:
        """What reading packed matrices while multiplying reaches; else plain bandwidth."""
        return self.products.get(weights, self.memory_bytes_per_s)


#: name fragment -> (HBM or GDDR bytes/s, dense bf16 FLOP/s, host link bytes/s, board W).
#: Sources: NVIDIA's product datasheets (H200, H100 SXM/PCIe, A100 80GB, L40S, L4, A10, T4) and
#: the GeForce product pages (4090, 3090); bf16 dense, without sparsity.
GPUS: dict[str, tuple[float, float, float, float]] = {
    "B200": (8.0e12, 2250e12, 50e9, 1000), "H200": (4.8e12, 989e12, 50e9, 700),
    "H100 PCIe": (2.0e12, 756e12, 50e9, 350), "H100": (3.35e12, 989e12, 50e9, 700),
    "A100": (2.0e12, 312e12, 25e9, 400), "L40S": (0.864e12, 362e12, 25e9, 350),
    "L4": (0.3e12, 121e12, 25e9, 72), "A10": (0.6e12, 125e12, 25e9, 150),
    "T4": (0.32e12, 65e12, 12e9, 70), "4090": (1.008e12, 165e12, 25e9, 450),
    "3090": (0.936e12, 71e12, 25e9, 350),
}
#: A laptop or small cloud machine; per core where it scales with cores.
CPU_BYTES_PER_S, CPU_FLOPS_PER_CORE, CPU_DISPATCH_S = 15e9, 60e9, 6e-6
GPU_DISPATCH_S, DISK_BYTES_PER_S = 8e-6, 0.8e9
DERATE = 0.7


def rates(machine: Machine, device: str, threads: int = 0) -> Rates:
    """The best there is for this device: measured ceilings first, the catalogue else.

    ``threads``: fewer than the cores compute that much less; what they read is left to learning."""
    known = machine.ceilings
    gpu = device.startswith("cuda")
    memory = known.get("gpu_bytes_per_s" if gpu else "ram_bytes_per_s")
    flops = known.get("gpu_gemm_bf16_flops" if gpu else "gemm_bf16_flops")
    disk = known.get("disk_bytes_per_s", DISK_BYTES_PER_S)
    base = _gpu(machine) if gpu else Rates(
        CPU_BYTES_PER_S, CPU_FLOPS_PER_CORE * machine.cores, CPU_DISPATCH_S, 0.0, disk, None,
        "catalogue, estimated", False)
    if memory is None or flops is None:
        return base
    start, end = "gpu_gemv_" if gpu else "gemv_", "_bytes_per_s"
    products = {name.removeprefix(start).removesuffix(end): rate for name, rate in known.items()
                if name.startswith(start) and name.endswith(end)}
    share = 1.0 if gpu or not threads else min(1.0, threads / machine.cores)
    return Rates(memory, flops * share, known.get("gpu_launch_s" if gpu else "dispatch_s", base.dispatch_s),
                 known.get("h2d_bytes_per_s", base.link_bytes_per_s), disk, base.watts,
                 "measured ceilings", True, products)


def _gpu(machine: Machine) -> Rates:
    name = machine.gpus[0].name if machine.gpus else ""
    for fragment, (memory, flops, link, watts) in GPUS.items():
        if fragment.lower() in name.lower():
            return Rates(memory * DERATE, flops * DERATE, GPU_DISPATCH_S, link, DISK_BYTES_PER_S,
                         watts, f"catalogue ({fragment}), estimated", False)
    return Rates(0.5e12, 100e12, GPU_DISPATCH_S, 12e9, DISK_BYTES_PER_S, None,
                 "a GPU that the catalogue does not know, estimated", False)
