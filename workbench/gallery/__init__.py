"""Small stand-ins with the architectures of papers that are far from language models.

    from workbench import gallery
    module, inputs = gallery.make("vision_transformer", batch=8)
    wb.profile(module, inputs)

One file per entry: its docstring's first line is its title, ``PAPER`` where it comes from, ``LEFT_OUT``
what the stand-in does not have, ``make(batch) -> (module, inputs)`` builds it. Weights are random: an
entry shows what an architecture costs, never how well it predicts. Listing imports no torch.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

from workbench.errors import SettingsError, one_of

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Every entry, by file name."""
    return sorted(p.stem for p in _HERE.glob("*.py") if not p.stem.startswith("_"))


def titles() -> dict[str, str]:
    """name -> the first line of its docstring."""
    return {n: (ast.get_docstring(ast.parse((_HERE / f"{n}.py").read_text("utf-8"))) or "")
            .partition("\n")[0] for n in names()}


def entry(name: str) -> Any:
    """The entry's Python module. Raises SettingsError that names the entries."""
    if name not in names():
        raise SettingsError(one_of("gallery entry", name, names()))
    return importlib.import_module(f"workbench.gallery.{name}")


def make(name: str, *, batch: int = 1, seed: int = 0, dtype: str = "float32", device: str = "cpu"
         ) -> tuple[Any, Any]:
    """(module in eval mode, inputs): the same numbers for the same seed.

    ``dtype``: of floating-point weights and inputs. Raises SettingsError."""
    import torch

    if not isinstance(batch, int) or not 1 <= batch <= 4096:
        raise SettingsError(f"batch={batch!r} must be a whole number from 1 to 4096")
    found = entry(name)
    kind: Any = vars(torch).get(dtype)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise SettingsError(f"dtype={dtype!r} is not a floating-point type; float32 or bfloat16")
    only = str(vars(found).get("ONLY_FLOAT32", ""))
    if only and kind != torch.float32:
        raise SettingsError(f"{name} runs in float32 only: {only}")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SettingsError("this machine has no GPU that torch can use; leave device at cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, inputs = found.make(batch)
    return module.eval().to(device=device, dtype=kind), _moved(inputs, device, kind)


def _moved(value: Any, device: str, dtype: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, dict):
        return {k: _moved(v, device, dtype) for k, v in value.items()}
    if not isinstance(value, list | tuple):
        return value
    return tuple(_moved(v, device, dtype) for v in value)
