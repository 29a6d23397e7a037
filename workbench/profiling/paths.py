"""Which module runs now: hooks on every submodule while somebody looks, none otherwise."""

from __future__ import annotations

from typing import Any, Protocol

#: Begins the name of a profiler range that stands for a module; its number follows.
MARK = "workbench.module."


class Listener(Protocol):
    """Hears where the forward is."""

    def enter(self, index: int) -> None: ...

    def leave(self, index: int) -> None: ...


class Paths:
    """Submodules by number. A module used in several places has its first path."""

    def __init__(self, module: Any) -> None:
        named = list(module.named_modules())
        self.names = [name for name, _ in named]
        self.classes = [type(m).__name__ for _, m in named]
        self._modules = [m for _, m in named]
        self._handles: list[Any] = []

    def listen(self, listener: Listener) -> None:
        """Until :meth:`silence`. A forward that raises still leaves (``always_call``)."""
        for index, module in enumerate(self._modules):
            self._handles += [
                module.register_forward_pre_hook(_entering(listener, index), prepend=True),
                module.register_forward_hook(_leaving(listener, index), always_call=True)]

    def silence(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def layer(self, index: int) -> int:
        """The first number in the path (``blocks.3.attn`` -> 3), or -1: the views' layer axis."""
        return next((int(p) for p in self.names[index].split(".") if p.isdigit()), -1)


def _entering(listener: Listener, index: int) -> Any:
    def hook(module: Any, arguments: Any) -> None:
        listener.enter(index)

    return hook


def _leaving(listener: Listener, index: int) -> Any:
    def hook(module: Any, arguments: Any, output: Any) -> None:
        listener.leave(index)

    return hook
