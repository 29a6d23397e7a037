"""The last search for the best draft of each model, kept on this machine for the views to show."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.settings import Settings


def remember(settings: Settings, ranking: dict[str, Any]) -> None:
    """Keep a ranking (``Ranking.to_dict()``) for this model and its weights. A disk that cannot take it is
    no reason to fail: it is then forgotten."""
    path = _path(settings)
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(ranking), encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)


def recall(settings: Settings) -> dict[str, Any] | None:
    """The last ranking of this model with these weights and this way of sampling, or None."""
    try:
        found = json.loads(_path(settings).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("places"), list) else None


def _path(settings: Settings) -> Path:
    from workbench.machine import home

    about = {"model": settings.model.to_dict(), "weights": settings.weights.to_dict(),
             "kv": settings.kv.to_dict(), "greedy": settings.sampling.temperature == 0.0}
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Path(home()) / "cache" / "speculation" / f"{key}.json"
