"""Profiler ranges around a model's layers and modules, while a window is open.

Every module that holds tensors of its own, and every direct child of a layer, gets a numbered range;
its dotted path and its layer are looked up when the window is read.
"""

from __future__ import annotations

from typing import Any

from workbench.telemetry.reduction import LAYER, MODULE


class Modules:
    """``table``: label number -> (layer or -1, path). Made once per model."""

    def __init__(self, model: Any, layers: list[Any]) -> None:
        """``model`` None: only the layers have ranges (a fake of a test, or no module tree)."""
        self._layers = layers
        self.table: dict[int, tuple[int, str]] = {}
        self.linear: set[str] = set()
        self._hooked: list[tuple[Any, str]] = [(m, f"{LAYER}{i}") for i, m in enumerate(layers)]
        self._handles: list[Any] = []
        self._open: list[Any] = []
        if model is not None:
            self._find(model)

    def _find(self, model: Any) -> None:
        number = {id(layer): i for i, layer in enumerate(self._layers)}
        children = {id(c) for layer in self._layers for c in layer.children()}
        at: dict[str, int] = {}
        for path, module in model.named_modules():
            if id(module) in number:
                at[path] = number[id(module)]
                continue
            own = [*module._parameters.values(), *module._buffers.values()]
            if not path or not (any(t is not None for t in own) or id(module) in children):
                continue
            layer = next((i for p, i in at.items() if path.startswith(p + ".")), -1)
            label = len(self.table)
            self.table[label] = (layer, path)
            self._hooked.append((module, f"{MODULE}{label}"))
            if is_linear(module):
                self.linear.add(path)

    def listen(self) -> None:
        for module, label in self._hooked:
            self._handles.append(module.register_forward_pre_hook(self._enter(label)))
            self._handles.append(module.register_forward_hook(self._leave))

    def silence(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _enter(self, text: str) -> Any:
        import torch

        def hook(module: Any, arguments: Any) -> None:
            label = torch.profiler.record_function(text)
            label.__enter__()
            self._open.append(label)

        return hook

    def _leave(self, module: Any, arguments: Any, output: Any) -> None:
        if self._open:
            self._open.pop().__exit__(None, None, None)


def is_linear(module: Any) -> bool:
    """Does it multiply by a stored matrix? ``nn.Linear`` and what packed weights put in its place."""
    name = type(module).__name__.lower()
    return "embedding" not in name and ("linear" in name or (
        hasattr(module, "in_features") and hasattr(module, "out_features")))
