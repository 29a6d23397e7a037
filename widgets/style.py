"""The style sheet that the live widget and the static form share."""

from __future__ import annotations

import functools
from pathlib import Path

STATIC = Path(__file__).parent / "static"


@functools.cache
def style() -> str:
    return (STATIC / "bench.css").read_text("utf-8")
