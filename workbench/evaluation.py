"""Quality of a configuration against the untouched model, orchestrated over the engine.

The reference (the checkpoint's own weights, full KV cache) is evaluated once per model and text and
kept as log-probabilities on disk; every candidate is compared with it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.machine import home
from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.dispatch import Context

#: Characters of each evaluation document at the quick level; the standard error shows the price.
_QUICK_CHARACTERS = 1200


def texts(level: str) -> list[str]:
    """The evaluation documents for a level: ``quick`` reads the beginning of each."""
    from workbench import zoo

    documents = [d.text for d in zoo.evaluation_text()]
    return [t[:_QUICK_CHARACTERS] for t in documents] if level == "quick" else documents


def reference_settings(settings: Settings) -> Settings:
    """The same model, untouched: default weights, KV cache, placement and plain decoding."""
    clean = Settings().to_dict()
    kept: dict[str, Any] = {"model": settings.model, "compute": settings.compute,
                            "seed": settings.seed, "telemetry": {"preset": "off", "power": False}}
    return Settings.from_dict({**clean, **kept})


def reference_path(settings: Settings, documents: list[str]) -> Path:
    """One file per model, text and place it was computed on."""
    reference = reference_settings(settings)
    text = "\x00".join([reference.to_json(), _fingerprint(settings.model.source), *documents])
    return home() / "references" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"


def _fingerprint(source: str) -> str:
    """Changes when a local checkpoint's files change."""
    from workbench import zoo

    folder = zoo.path(zoo.DEFAULT) if source == "bundled" else Path(source).expanduser()
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return "|".join(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)


def measure(context: Context, run_id: str, settings: Settings) -> None:
    """Evaluate ``settings`` (and the reference first, if it is not there yet)."""
    from workbench.engine.client import Evaluate

    documents = texts(settings.quality.level)
    path = reference_path(settings, documents)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        context.call(Evaluate(run_id="", settings=reference_settings(settings).to_dict(),
                              texts=documents, reference=None, save=str(path)))
    context.call(Evaluate(run_id=run_id, settings=settings.to_dict(), texts=documents,
                          reference=str(path), save=None))
