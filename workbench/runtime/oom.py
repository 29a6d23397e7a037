"""Running out of memory, in one sentence that says what to change."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from workbench.errors import OutOfMemory

_SIGNS = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory",
          "defaultcpuallocator", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """MemoryError, torch's own class, or a RuntimeError that says so."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


@contextlib.contextmanager
def explained(doing: str, advice: str) -> Iterator[None]:
    """Turn a failed allocation into :class:`OutOfMemory`; everything else passes."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{doing} ran out of memory{_asked(error)}; {advice}") from None


def _asked(error: BaseException) -> str:
    """The size that was refused, when the message tells it."""
    match = re.search(r"allocate ([0-9.]+ ?[KMGT]?i?B|[0-9]+ bytes)", str(error))
    if not match:
        return ""
    size = match[1]
    if size.endswith("bytes"):
        from workbench.units import format_bytes

        size = format_bytes(int(size.split()[0]))
    return f" (it asked for {size} more)"
