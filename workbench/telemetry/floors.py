"""The least time a product or an attention can take: bytes over measured bandwidth, FLOPs over rate.

A module that multiplies by a stored matrix reads that matrix once per forward; attention reads the
cached keys and values once. The floor goes to the one row that carries the work (the longest product
of the module, the longest attention of the layer); anything else has no floor here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.telemetry.reduction import Captured, Key

#: Model of a linear module: stored bytes, FLOPs per row.
Work = tuple[int, int]


def _no_context() -> int:
    return 0


@dataclass(frozen=True)
class Floors:
    """``layer_bytes``: packed matrices of one layer, for captures without module ranges; ``modules``:
    dotted path -> (bytes, FLOPs per row); ``kv_token_bytes`` and ``attention_flops``: of one layer, per
    cached token (and row); rates are None where they were not measured."""

    layer_bytes: int
    layer_flops_per_row: int
    bytes_per_s: float | None = None
    flops_per_s: float | None = None
    modules: Mapping[str, Work] = field(default_factory=dict)
    kv_token_bytes: int = 0
    attention_flops: int = 0
    context: Callable[[], int] = _no_context

    @classmethod
    def of_model(cls, settings: Any, shape: Any, machine: Any, cuda: bool, model: Any = None) -> Floors:
        """``model``: the loaded one, for what each of its modules holds and what is cached."""
        packed = sum(settings.weights.storage_bytes(r, c) for _, r, c in shape.linears())
        prefix = "gpu_" if cuda else ""
        memory = "gpu_bytes_per_s" if cuda else "ram_bytes_per_s"
        tree = model.loaded.model if model is not None else None
        dtype = str(model.dtype).removeprefix("torch.") if model is not None else "bfloat16"
        return cls(packed, 2 * shape.layer_parameters, machine.ceilings.get(memory),
                   machine.ceilings.get(f"{prefix}gemm_{_rate_of(dtype)}_flops"),
                   work_of(tree) if tree is not None else {},
                   settings.kv.token_bytes(shape, dtype) // max(1, shape.layers),
                   4 * shape.heads * shape.head_dim, _context_of(model))

    def table(self, classes: Mapping[Key, str], rows: int, captured: Captured
              ) -> dict[Key, dict[str, Any]]:
        """Row -> its ``bytes flops floor_s``; rows without a known floor are not in it.

        What a row's own records declared comes before what is known of its module."""
        found: dict[Key, dict[str, Any]] = {}
        for key in _carriers(classes, captured):
            work = self._work(key, classes[key], rows)
            if work is not None:
                found[key] = {"bytes": work[0], "flops": work[1], **self.floor(*work)}
        for key, row in captured.rows.items():
            if row.bytes is not None:
                found[key] = {"bytes": row.bytes, "flops": row.flops,
                              **self.floor(row.bytes, row.flops or 0)}
        return found

    def floor(self, moved: int, flops: int) -> dict[str, float]:
        if self.bytes_per_s is None or self.flops_per_s is None:
            return {}
        return {"floor_s": max(moved / self.bytes_per_s, flops / self.flops_per_s)}

    def _work(self, key: Key, cls: str, rows: int) -> Work | None:
        if cls == "attention" and key.layer >= 0 and self.kv_token_bytes and self.context():
            held = self.context()
            return self.kv_token_bytes * held, self.attention_flops * held * rows
        if cls != "matmul":
            return None
        if key.module in self.modules:
            moved, per_row = self.modules[key.module]
            return moved, per_row * rows
        if key.layer < 0 or self.modules:
            return None
        return self.layer_bytes, self.layer_flops_per_row * rows


def _rate_of(dtype: str) -> str:
    return "fp32" if dtype == "float32" else "bf16"


def _context_of(model: Any) -> Callable[[], int]:
    """Tokens in the run's cache now; 0 while there is none."""
    def held() -> int:
        cache = getattr(model, "_cache", None)
        return int(getattr(cache, "length", 0) or 0)

    return held if model is not None else _no_context


def work_of(tree: Any) -> dict[str, Work]:
    """Path -> (bytes of its tensors, FLOPs per row) of every module that multiplies by a matrix."""
    from workbench.telemetry.modules import is_linear

    found: dict[str, Work] = {}
    for path, module in tree.named_modules():
        if is_linear(module):
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            held = sum(t.numel() * t.element_size() for t in tensors)
            shape = getattr(module, "in_features", 0), getattr(module, "out_features", 0)
            found[path] = (held, 2 * shape[0] * shape[1])
    return found


def _carriers(classes: Mapping[Key, str], captured: Captured) -> list[Key]:
    """The longest product of every module and the longest attention of every layer."""
    best: dict[tuple[int, str, str, str], Key] = {}
    for key, row in captured.rows.items():
        cls = classes[key]
        if cls not in ("matmul", "attention"):
            continue
        group = (key.layer, key.module if cls == "matmul" else "", cls, key.kind)
        if group not in best or row.total_s > captured.rows[best[group]].total_s:
            best[group] = key
    return list(best.values())
