"""Runs that come with the package: replayed without a model, a GPU or a download."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import StoreError, one_of
from workbench.store.home import open_bundle
from workbench.store.run import Run, Runs

_FOLDER = Path(__file__).parent.parent / "recorded"


def recorded(name: str | None = None) -> Runs | Run:
    """The bundled runs, or by its name one of them; each says where and when it was recorded.

    Raises StoreError for a name that is not there."""
    if name is None:
        return Runs(bundled_run(n) for n in bundled_names())
    return bundled_run(name)


def bundled_run(name: str) -> Run:
    """One of them, read from its files only. Raises StoreError that names those there are."""
    if name not in bundled_names():
        raise StoreError(one_of("bundled run", name, bundled_names()))
    return open_bundle(_FOLDER / name)


def bundled_names() -> list[str]:
    """Folder names, which are what :func:`recorded` takes."""
    return sorted(p.parent.name for p in _FOLDER.glob("*/run.json"))


def provenance(run: Run) -> str:
    """One sentence: the machine and the date."""
    machine = run.environment.get("machine", {})
    gpus = ", ".join(str(g.get("name")) for g in machine.get("gpus", [])) or "no GPU"
    return (f"recorded on {run.created:%Y-%m-%d} on {machine.get('cpu') or 'an unnamed processor'}, "
            f"{machine.get('cores', '?')} cores, {gpus}")
