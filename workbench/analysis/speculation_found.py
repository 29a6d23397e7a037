"""The last search for the best draft of each model, and the verdicts on runs that were checked, kept on
this machine for the views to show."""

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
    _write(_path(settings), ranking)


def recall(settings: Settings) -> dict[str, Any] | None:
    """The last ranking of this model with these weights and this way of sampling, or None."""
    found = _read(_path(settings))
    return found if found is not None and isinstance(found.get("places"), list) else None


def remember_verdict(run: str, verdicts: list[dict[str, Any]]) -> None:
    """Keep what the equality check said (``Verdict.to_dict()`` per sequence) of the run of this id."""
    _write(_folder() / f"verdict-{run}.json", {"sequences": verdicts})


def recall_verdict(run: str) -> list[dict[str, Any]] | None:
    """The kept verdicts of a run, one per sequence, or None where it was not checked here."""
    found = _read(_folder() / f"verdict-{run}.json")
    return found["sequences"] if found is not None and isinstance(found.get("sequences"), list) else None


def _folder() -> Path:
    from workbench.machine import home

    return Path(home()) / "cache" / "speculation"


def _path(settings: Settings) -> Path:
    about = {"model": settings.model.to_dict(), "weights": settings.weights.to_dict(),
             "kv": settings.kv.to_dict(), "greedy": settings.sampling.temperature == 0.0}
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return _folder() / f"{key}.json"


def _write(path: Path, data: dict[str, Any]) -> None:
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(data), encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
