"""Driving other engines: one small file each, one protocol, the same events as the native runtime.

``open_model(settings, emit, cancelled)`` gives the engine's process a model to use like
:class:`workbench.runtime.model.Model`, whichever backend the settings name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.errors import MissingDependency

if TYPE_CHECKING:
    from workbench.events import Event
    from workbench.settings import Settings


def is_peer(settings: Settings) -> bool:
    """Whether another engine than the native runtime is asked for."""
    return settings.backend.name() != "native"


def open_model(settings: Settings, emit: Callable[[Event], None],
               cancelled: Callable[[], bool] | None = None) -> Any:
    """Load the model with the engine that ``settings.backend`` names.

    Raises MissingDependency where the peer is not installed, else what loading raises."""
    from workbench.runtime.model import load

    if not is_peer(settings):
        return load(settings, emit, cancelled)
    why = settings.backend.missing()
    if why:
        raise MissingDependency(why)
    from workbench.backends.model import PeerModel

    driver = importlib.import_module(f"workbench.backends.{settings.backend.name()}")
    return PeerModel.open(driver.start, settings, emit, cancelled or (lambda: False))


def made_of(settings: Settings) -> tuple[Any, ...]:
    """What makes a loaded model: when it is equal, the one at hand serves."""
    return (settings.model, settings.weights, settings.tiers, settings.compute, settings.backend,
            settings.seed if settings.model.weights == "random" else 0)


def watched(settings: Settings) -> Settings:
    """What of the telemetry can look into this backend: layers and operators of torch, no others."""
    if settings.backend.name() in ("native", "transformers"):
        return settings
    return settings.with_({"telemetry.preset": "off"})
