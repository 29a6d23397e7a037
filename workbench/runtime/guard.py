"""Stopping soon, wherever the model is: between forwards, and between layers of a slow one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from workbench.errors import Cancelled

#: A forward slower than this gets a check before every layer; a check costs about a microsecond.
SLOW_S = 0.05


def layers_of(model: Any) -> list[Any]:
    """The decoder layers of a transformers causal language model, in order."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    for name in ("layers", "h", "blocks"):
        found = getattr(decoder, name, None)
        if found is not None:
            return list(found)
    return []


class Guard:
    """Asks ``cancelled()`` and raises :class:`Cancelled`. One per generation."""

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled = cancelled

    def check(self) -> None:
        if self._cancelled():
            raise Cancelled("cancelled")

    def _before_layer(self, *_: Any) -> None:
        self.check()

    @contextlib.contextmanager
    def between_layers(self, model: Any) -> Iterator[None]:
        """Also check before every decoder layer of ``model`` while this is open."""
        handles = [layer.register_forward_pre_hook(self._before_layer)
                   for layer in layers_of(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
