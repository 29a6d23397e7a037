"""What the process really holds (from the OS or the device's allocator) and what we know it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.events import Memory

if TYPE_CHECKING:
    import torch


@dataclass
class Parts:
    """Bytes by use on the compute device, as allocated."""

    weights: int = 0
    kv: int = 0
    activations: int = 0
    draft: int = 0
    workspace: int = 0


def resident_bytes() -> int:
    """This process's resident set, as the OS counts it."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def module_bytes(module: torch.nn.Module) -> dict[str, int]:
    """Bytes of parameters and buffers by tier (``gpu ram disk``), shared storage counted once."""
    seen: set[tuple[str, int]] = set()
    total: dict[str, int] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        tier = {"cuda": "gpu", "meta": "disk"}.get(tensor.device.type, "ram")
        key = (tier, tensor.data_ptr() or id(tensor))
        if key not in seen:
            seen.add(key)
            total[tier] = total.get(tier, 0) + tensor.numel() * tensor.element_size()
    return total


def readings(device: torch.device, parts: Parts, other: dict[str, int]) -> list[Memory]:
    """One :class:`Memory` per tier in use. ``other``: weights on tiers that do not compute."""
    import psutil
    import torch

    compute = "gpu" if device.type == "cuda" else "ram"
    other = {tier: n for tier, n in other.items() if tier != compute}
    found = []
    if compute == "gpu":
        reading = Memory(tier="gpu", total_bytes=torch.cuda.memory_allocated(device),
                         limit_bytes=torch.cuda.get_device_properties(device).total_memory,
                         source="CUDA allocator")
        found.append(_split(reading, parts))
    ram = Memory(tier="ram", total_bytes=resident_bytes(), weights_bytes=other.get("ram", 0),
                 limit_bytes=int(psutil.virtual_memory().total),
                 source="resident set of the engine process")
    found.append(_split(ram, parts) if compute == "ram" else ram)
    if other.get("disk"):
        found.append(Memory(tier="disk", total_bytes=other["disk"], weights_bytes=other["disk"],
                            source="weights kept on disk"))
    return found


def _split(reading: Memory, parts: Parts) -> Memory:
    import msgspec

    return msgspec.structs.replace(
        reading, weights_bytes=parts.weights, kv_bytes=parts.kv, draft_bytes=parts.draft,
        activations_bytes=parts.activations, workspace_bytes=parts.workspace)
