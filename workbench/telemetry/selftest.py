"""Does kernel capture work in this process? Asked once, when the engine starts.

The first capture of a process also sets the profiler up (tens of milliseconds), so asking here keeps
that out of the first run's time to first token.
"""

from __future__ import annotations

import functools
import os

#: libkineto prints a line on stderr for every start and stop unless told otherwise.
_QUIET = ("KINETO_LOG_LEVEL", "6")


def quiet() -> None:
    """Before the process's first capture; a level that the user chose stays."""
    os.environ.setdefault(*_QUIET)


@functools.cache
def self_test() -> str:
    """Empty when operators (and, with a GPU, kernels) are seen; else one sentence why not."""
    quiet()
    try:
        host, device, cuda = _capture()
    except Exception as error:  # any failure here is a reason, never a failed start
        return f"kernel capture does not work here ({type(error).__name__}: {error})"
    dispatch_seconds()
    if not host:
        return "kernel capture sees no operators: this torch was built without Kineto"
    if cuda and not device:
        return ("no GPU events: another profiler may hold the GPU's counters (close Nsight, DCGM or "
                "a second capture), or the driver does not allow them")
    return ""


def _capture() -> tuple[int, int, bool]:
    """(host events, device events, whether there is a GPU) of one addition."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    cuda = torch.cuda.is_available()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    x = torch.ones(8, device="cuda" if cuda else "cpu")
    window = profile(activities=kinds)
    window.start()
    x.add(1)
    if cuda:
        torch.cuda.synchronize()
    window.stop()
    results = window.profiler.kineto_results if window.profiler is not None else None
    where = ["CPU" in str(e.device_type()) for e in results.events()] if results is not None else []
    return sum(where), len(where) - sum(where), cuda


@functools.cache
def dispatch_seconds() -> float | None:
    """Host seconds per tiny operator with the profiler off; the best of a few short repeats.

    About 2 ms, once per process; None where torch cannot add."""
    import time

    import torch

    x, best = torch.ones(8), float("inf")
    with torch.inference_mode():
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(200):
                torch.add(x, 1)
            best = min(best, (time.perf_counter() - began) / 200)
    return best
