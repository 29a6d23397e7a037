"""The synthetic runs, as a fixture."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """``tests/synthetic.py``."""
    path = Path(__file__).parent.parent / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
