"""How much memory this process holds, as the operating system and the device driver see it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys


def read() -> dict[str, int]:
    """Bytes held now: ``ram`` (resident set) and ``gpu`` (reserved by torch on all devices)."""
    import psutil

    return {"ram": int(psutil.Process().memory_info().rss), "gpu": _gpu()}


def _gpu() -> int:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(int(torch.cuda.memory_reserved(i)) for i in range(torch.cuda.device_count()))


def give_back() -> None:
    """Return what is free inside this process to the device and the operating system."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # only glibc keeps free pages, and has this
        ctypes.CDLL("libc.so.6").malloc_trim(0)
