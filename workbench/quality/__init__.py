"""Quality beside speed: perplexity, KL divergence to a reference, top-1 agreement.

``evaluate(model, texts, emit, cancelled, reference, save)`` runs on the worker's loaded model.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("evaluate", "Summary"):
        from workbench.quality import evaluation

        return getattr(evaluation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
