"""After memory ran out: what was held on each tier, what was asked for, and which limit applies.

Called while the failed model is still there, before the engine gives its memory back.
"""

from __future__ import annotations

import re
from pathlib import Path

from workbench.events import MemoryFailure

_UNITS = {"B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
          "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "BYTES": 1}
_SIZE = r"([0-9][0-9,]*(?:\.[0-9]+)?)\s*([KMGT]?i?B|bytes)"
#: How the allocators, and the runtime's own sentences, name what was refused.
_ASKED = (rf"asked for {_SIZE}", rf"allocate {_SIZE}", rf"cache needs {_SIZE}", rf"needs {_SIZE}")


def asked_bytes(message: str) -> int | None:
    """The size that was refused, when the message tells it."""
    for pattern in _ASKED:
        match = re.search(pattern, message)
        if match:
            return int(float(match[1].replace(",", "")) * _UNITS[match[2].upper()])
    return None


def report(error: BaseException, doing: str = "", bare: dict[str, int] | None = None
           ) -> list[MemoryFailure]:
    """One record per tier in use: RAM always, the GPU where torch holds memory on one.

    ``bare``: :func:`held` before any model was loaded."""
    message = str(error)
    asked = asked_bytes(message)
    on_gpu = "cuda" in message.lower()
    found = []
    gpu = _gpu()
    if gpu is not None:
        used, limit, free = gpu
        found.append(MemoryFailure(tier="gpu", held_bytes=used, limit_bytes=limit, free_bytes=free,
                                   limit="the GPU's memory", doing=doing,
                                   asked_bytes=asked if on_gpu else None))
    resident = held()
    kind = "vms" if _address_space() is not None else "rss"
    limit_bytes, name = ram_limit(kind)
    found.append(MemoryFailure(
        tier="ram", held_bytes=resident[kind], limit_bytes=limit_bytes, limit=name, doing=doing,
        free_bytes=max(0, limit_bytes - resident[kind]) if limit_bytes is not None else None,
        bare_bytes=(bare or {}).get(kind), asked_bytes=None if on_gpu else asked))
    return found


def held() -> dict[str, int]:
    """Resident (``rss``) and address-space (``vms``) bytes of this process."""
    import psutil

    info = psutil.Process().memory_info()
    return {"rss": int(info.rss), "vms": int(info.vms)}


def ram_limit(kind: str = "rss") -> tuple[int | None, str]:
    """(bytes, name) of the smallest limit on what this process may hold."""
    limits: list[tuple[int, str]] = []
    space = _address_space()
    if kind == "vms" and space is not None:
        return space, "the limit on this process's address space (ulimit -v)"
    group = _cgroup()
    if group is not None:
        limits.append((group, "the container's memory limit"))
    try:
        import psutil

        limits.append((int(psutil.virtual_memory().total), "this machine's memory"))
    except (ImportError, OSError):
        pass
    return min(limits) if limits else (None, "")


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft in (resource.RLIM_INFINITY, -1) else int(soft)


def _cgroup(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 60:  # version 1 writes a huge number for "none"
            return int(text)
    return None


def _gpu() -> tuple[int, int, int] | None:
    """(held by torch, the device's, free) on the first GPU this process uses."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    return int(torch.cuda.memory_allocated()), int(total), int(free)
