"""Timing on a CUDA device: events, a flushed cache, medians; and what the device's memory gives in the
same run."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

import torch


def require() -> torch.device:
    """The first CUDA device; without one the program ends with a sentence."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA GPU, and torch sees none here")
    return torch.device("cuda")


def about() -> dict[str, Any]:
    import triton

    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "date": date.today().isoformat(),
    }


class Clock:
    """Seconds of a call, its inputs out of the second-level cache."""

    def __init__(self, repeats: int = 30) -> None:
        self.repeats = repeats
        size = 2 * torch.cuda.get_device_properties(0).L2_cache_size
        self.flush = torch.empty(max(size, 64 << 20), dtype=torch.uint8, device="cuda")

    def __call__(self, run: Callable[[], Any]) -> float:
        for _ in range(3):
            run()
        found = []
        for _ in range(self.repeats):
            self.flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1e3)
        return statistics.median(found)

    def bandwidth(self) -> float:
        """Bytes per second that a sum over 4 GiB reads."""
        big = torch.ones(1 << 30, dtype=torch.float32, device="cuda")
        return big.nbytes / self(lambda: big.sum())
