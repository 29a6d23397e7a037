"""Loading, caches and the loop: the worker side. ``load(settings, emit) -> Model``.

One request's way: ``model.load`` reads and places the weights; ``Model.generate`` makes the caches
and a drafter and hands them to ``loop.Loop``, whose step is schedule (who proposes what), run (one
forward over the rows) and postprocess (keep what the target confirms, emit it).
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("load", "Model"):
        from workbench.runtime import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
