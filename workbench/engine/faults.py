"""What can go wrong while a command runs, each in one sentence for the user.

A traceback never leaves the worker: it goes to the log, whose path the sentence names.
"""

from __future__ import annotations

import errno
import sys
import traceback

from workbench.engine.wire import Done
from workbench.errors import BY_NAME, WorkbenchError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MEMORY_SIGNS = ("not enough memory", "can't allocate memory", "cannot allocate memory",
                 "out of memory", "std::bad_alloc")


def done(ticket: int, error: BaseException, log: str = "") -> Done:
    """The answer to a command that ended with ``error``."""
    name, reason = explain(error, log)
    return Done(ticket=ticket, error=name, reason=reason)


def explain(error: BaseException, log: str = "") -> tuple[str, str]:
    """(name of the class in ``workbench.errors``, the sentence). Unknown ones are logged whole."""
    if isinstance(error, WorkbenchError):
        known = next(c.__name__ for c in type(error).__mro__ if c.__name__ in BY_NAME)
        return known, str(error)
    if is_out_of_memory(error):
        return "OutOfMemory", ("the engine ran out of memory and gave its model back; use fewer "
                               "bits, a shorter context, a smaller batch or another tier")
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f" while writing {error.filename}" if error.filename else ""
        return "StoreError", (f"the disk is full{where}; free some space or point WORKBENCH_HOME "
                              "at another disk; finished runs are safe")
    if isinstance(error, ModuleNotFoundError) and not (error.name or "workbench").startswith(
            "workbench"):
        return "MissingDependency", (f"this needs the Python package {error.name!r}, which is not "
                                     "installed where the engine runs; install it there")
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    return "EngineError", f"the engine failed inside ({_short(error)}){_see(log)}"


def is_out_of_memory(error: BaseException) -> bool:
    """Python's, torch's, or an allocator's that only says so in words."""
    names = {c.__name__ for c in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(s in str(error).lower() for s in _MEMORY_SIGNS)


def brief(error: BaseException) -> str:
    """The sentence alone, for an event; the answer to the client also logs and says where."""
    if is_out_of_memory(error):
        return "the engine ran out of memory"
    return f"the engine failed inside ({_short(error)})"


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _see(log: str) -> str:
    return f"; the details are in {log}" if log else "; the details are in the engine's log"
