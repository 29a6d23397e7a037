"""The compiled CPU library: found, checked and opened on first use; nothing happens at import.

``WORKBENCH_NATIVE=0`` turns it off; ``WORKBENCH_ISA=avx512_vnni|avx512|avx2|generic`` lowers what it may use.
Without
it every operation has a torch path, and whoever asks learns why from :func:`why_not`.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from workbench.kernels.native import build

_INSTALL = "run `make install`, or `python -m workbench.kernels.native.build` in a checkout"


def path() -> Path:
    """Where the build puts the library."""
    return Path(__file__).parent / build.FILE


def available() -> bool:
    """Whether the native kernels can run here."""
    return not why_not()


def library() -> ctypes.CDLL:
    """The library. Raises RuntimeError with :func:`why_not` where there is none."""
    found, why = _open()
    if found is None or why_not():
        raise RuntimeError(why or why_not())
    return found


def why_not() -> str:
    """Why the native kernels do not run, in a few words; "" when they do."""
    if os.environ.get("WORKBENCH_NATIVE", "1").lower() in ("0", "off", "no", "false"):
        return "native kernels are turned off (WORKBENCH_NATIVE=0)"
    return _open()[1]


def isa() -> str:
    """The instruction set that products use: amx, avx512, avx2 or generic; "" without the library."""
    return library().wb_isa().decode() if available() else ""


def stale() -> bool:
    """Whether the library was built from other sources than those beside it (a checkout only)."""
    found = _open()[0]
    if found is None:
        return False
    return _text(found, "wb_sources") != build.digest(build.sources())


def set_threads(threads: int) -> None:
    """Threads of the library's pool, the caller included; no more than a note where there is none."""
    if available():
        library().wb_set_threads(threads)


@functools.cache
def _open() -> tuple[ctypes.CDLL | None, str]:
    where = path()
    if not where.exists():
        return None, f"no native kernels: they were not compiled when this was installed; {_INSTALL}"
    try:
        found = ctypes.CDLL(str(where))
    except OSError as error:
        return None, f"the native kernels do not load here ({error}); {_INSTALL}"
    if _text(found, "wb_headers") != build.digest(build.headers()):
        return None, f"the native kernels are older than their headers; {_INSTALL}"
    _declare(found)
    return found, ""


def _text(library: ctypes.CDLL, name: str) -> str:
    try:
        function = getattr(library, name)
    except AttributeError:
        return ""
    function.restype = ctypes.c_char_p
    return str(function().decode())


def _declare(library: ctypes.CDLL) -> None:
    from workbench.kernels.native import abi

    abi.declare(library)
