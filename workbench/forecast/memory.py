"""Bytes per tier and use, from the techniques' own accounting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.forecast.estimate import TierUse
from workbench.machine import Machine
from workbench.shape import DTYPE_BYTES, ModelShape

if TYPE_CHECKING:
    from workbench.settings import Settings

#: Resident bytes of a worker before any model: Python, torch, transformers. Measured on Linux
#: x86-64 with torch 2.13 (CPU) as 330 to 400 MiB; a CUDA context adds its own on both sides.
LIBRARIES_BYTES = 380 << 20
CUDA_CONTEXT_BYTES = 500 << 20


def device_of(settings: Settings, machine: Machine) -> str:
    """What ``auto`` resolves to: the first GPU where there is one."""
    if settings.compute.device != "auto":
        return settings.compute.device
    return "cuda:0" if machine.gpus else "cpu"


def compute_dtype(settings: Settings, shape: ModelShape) -> str:
    return "float32" if settings.weights.name() == "fp32" else "bfloat16"


def layer_bytes(settings: Settings, shape: ModelShape) -> int:
    """One decoder layer: its packed matrices and its two norms."""
    item = DTYPE_BYTES[compute_dtype(settings, shape)]
    packed = sum(settings.weights.storage_bytes(r, c) for _, r, c in shape.linears())
    return packed + 2 * shape.hidden * item


def head_bytes(settings: Settings, shape: ModelShape) -> int:
    """Embedding, output head (packed when the technique packs it), last norm, rotary frequencies."""
    item = DTYPE_BYTES[compute_dtype(settings, shape)]
    lookup = shape.embedding_parameters * item
    # The last norm, and the rotary frequencies, which transformers keeps twice in float32.
    norm = shape.hidden * item + shape.head_dim * 4
    packs = settings.weights.packs_head()
    if packs:
        return lookup + norm + settings.weights.storage_bytes(shape.vocab, shape.hidden)
    return lookup * (1 if shape.tied and not settings.weights.unties_head() else 2) + norm


def kv_bytes(settings: Settings, shape: ModelShape, tokens: int) -> int:
    dtype = compute_dtype(settings, shape)
    sequence = settings.kv.token_bytes(shape, dtype) * tokens + settings.kv.fixed_bytes(shape, dtype)
    return sequence * settings.limits.batch


def draft_bytes(settings: Settings, draft: ModelShape | None, tokens: int) -> int:
    """The draft's weights in the compute dtype, its rotary tables, its full cache."""
    if draft is None:
        return 0
    item = DTYPE_BYTES[compute_dtype(settings, draft)]
    cached = min(tokens, draft.max_positions)
    elements = draft.parameters + draft.kv_elements * cached
    if "Llama" in draft.architecture:  # runs in the lean form, which tabulates sine and cosine
        return (elements + 2 * draft.max_positions * draft.head_dim) * item
    return elements * item + draft.head_dim * 4


def pages(n: int) -> int:
    """Streamed layers are parked page-aligned, so that disk reads can go past the page cache."""
    return -(-n // 4096) * 4096


def tiers(settings: Settings, shape: ModelShape, machine: Machine, draft: ModelShape | None,
          tokens: int) -> list[TierUse]:
    """One entry per tier in use; ``tokens``: what the caches are made for."""
    device = device_of(settings, machine)
    compute = "gpu" if device.startswith("cuda") else "ram"
    one = layer_bytes(settings, shape)
    weights = {"gpu": 0, "ram": 0, "disk": 0}
    weights[compute] += head_bytes(settings, shape)
    for tier in settings.tiers.placement(shape.layers, machine, device):
        weights[tier] += one if tier == compute else pages(one)
    window = getattr(settings.tiers, "window", 0)
    slots = window * pages(one) if settings.tiers.name() == "stream" else 0
    rows = max(settings.decoding.rows(), min(tokens, 512)) * settings.limits.batch
    activations = rows * (4 * shape.hidden + 2 * shape.intermediate) * 4 + rows * shape.vocab * 4
    libraries = LIBRARIES_BYTES + (CUDA_CONTEXT_BYTES if compute == "gpu" else 0)
    limits = {"gpu": machine.gpus[0].memory_bytes if machine.gpus else 0,
              "ram": machine.memory_bytes, "disk": 0}
    uses = []
    for tier in ("gpu", "ram", "disk"):
        here = tier == compute
        use = TierUse(
            tier, weights_bytes=weights[tier],
            kv_bytes=kv_bytes(settings, shape, tokens) if here else 0,
            activations_bytes=activations if here else 0,
            draft_bytes=draft_bytes(settings, draft, tokens) if here else 0,
            workspace_bytes=(slots if here else 0) + (libraries if tier == "ram" else 0),
            limit_bytes=limits[tier])
        if use.total_bytes:
            uses.append(use)
    return uses
