"""One immutable, validated, serializable description of a whole configuration."""

from workbench.settings.sections import Compute, Limits, Model, Quality, Sampling, Telemetry
from workbench.settings.tree import ControlView, Settings, schema

__all__ = ["Compute", "ControlView", "Limits", "Model", "Quality", "Sampling", "Settings",
           "Telemetry", "schema"]
