"""Units as they are printed: binary bytes, SI seconds, rates. Past the driver's door all is SI base."""

from __future__ import annotations

import math
import re

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_SUFFIXES = {"": 1, "b": 1, "k": KIB, "kib": KIB, "m": MIB, "mib": MIB, "g": GIB, "gib": GIB,
             "t": TIB, "tib": TIB, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4}


def format_bytes(n: float | None) -> str:
    """``1610612736`` -> ``'1.50 GiB'``; ``None`` -> ``'n/a'``."""
    if n is None or not math.isfinite(n):
        return "n/a"
    for size, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(n) >= size:
            return f"{n / size:.3g} {name}" if abs(n) / size < 100 else f"{n / size:.0f} {name}"
    return f"{n:.0f} B"


def format_seconds(s: float | None) -> str:
    """``0.0123`` -> ``'12.3 ms'``."""
    if s is None or not math.isfinite(s):
        return "n/a"
    for size, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(s) >= size:
            return f"{s / size:.3g} {name}"
    return f"{s * 1e9:.3g} ns"


def format_number(x: float | None, unit: str = "") -> str:
    """Three significant digits and a unit, ``'n/a'`` for what is missing."""
    if x is None or not math.isfinite(x):
        return "n/a"
    text = f"{x:.3g}" if abs(x) < 1000 else f"{x:,.0f}"
    return f"{text} {unit}".strip()


def parse_bytes(text: str | int | float) -> int:
    """``'1.5GiB'`` -> ``1610612736``. Raises ValueError with the accepted forms."""
    if isinstance(text, (int, float)):
        return int(text)
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a size; write it like 512MiB, 1.5GiB or 1000000")
    return int(float(match[1]) * _SUFFIXES[match[2].lower()])
