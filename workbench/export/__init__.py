"""A configuration as something to run elsewhere: Python, YAML, JSON, ``vllm serve``, ``llama-server``.

Nothing is dropped in silence: what another engine has no counterpart for becomes a comment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import SettingsError, one_of

if TYPE_CHECKING:
    from workbench.settings import Settings

FORMATS = ("python", "yaml", "json", "vllm", "llama-server")


def export(settings: Settings, to: str = "python", *, prompt: str | None = None) -> str:
    """The configuration as text. Raises SettingsError for an unknown format."""
    from workbench.export import llama, python, vllm

    if to == "python":
        return python.code(settings, prompt)
    if to == "yaml":
        return settings.to_yaml()
    if to == "json":
        return settings.to_json()
    if to == "vllm":
        return vllm.command(settings)
    if to == "llama-server":
        return llama.command(settings)
    raise SettingsError(one_of("export format", to, list(FORMATS)))
