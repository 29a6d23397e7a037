"""This machine's ceilings: the rates that nothing on it can exceed, measured and cached.

Each is the best of several short repeats (a ceiling is what the hardware can do when nothing
interferes); the spread over the repeats is stored beside it. ``quick`` takes a few seconds.
"""

from __future__ import annotations

import copy
import datetime
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.errors import Cancelled
from workbench.events import Event, Progress
from workbench.machine import ceilings_path, home, this_machine

#: Weight techniques whose matrix-vector product is measured.
PRODUCTS = ("fp32", "bf16", "int8", "int4")

Rate = tuple[float, float]  # best, (best - median) / best


def measure(emit: Callable[[Event], None], cancelled: Callable[[], bool], full: bool = False
            ) -> dict[str, float]:
    """name -> rate; written to the cache. Raises Cancelled and leaves the cache as it was."""
    import torch

    repeats = 15 if full else 5
    jobs: dict[str, Callable[[int], Rate]] = {
        "ram_bytes_per_s": ram_read, "ram_copy_bytes_per_s": ram_copy,
        "gemm_fp32_flops": lambda n: gemm(torch.float32, "cpu", n),
        "gemm_bf16_flops": lambda n: gemm(torch.bfloat16, "cpu", n),
        "gemm_int8_flops": lambda n: gemm_int8("cpu", n),
        **{f"gemv_{w}_bytes_per_s": functools.partial(product, w, "cpu") for w in PRODUCTS},
        "dispatch_s": dispatch, "disk_bytes_per_s": disk_read}
    if torch.cuda.is_available():
        jobs |= {"gpu_bytes_per_s": gpu_copy, "h2d_bytes_per_s": lambda n: link(n, True),
                 "d2h_bytes_per_s": lambda n: link(n, False), "gpu_launch_s": gpu_launch,
                 "gpu_gemm_fp32_flops": lambda n: gemm(torch.float32, "cuda", n),
                 "gpu_gemm_bf16_flops": lambda n: gemm(torch.bfloat16, "cuda", n),
                 "gpu_gemm_int8_flops": lambda n: gemm_int8("cuda", n),
                 **{f"gpu_gemv_{w}_bytes_per_s": functools.partial(product, w, "cuda")
                    for w in PRODUCTS}}
    found: dict[str, float] = {}
    spread: dict[str, float] = {}
    for index, (name, job) in enumerate(jobs.items()):
        if cancelled():
            raise Cancelled("the measurement was cancelled; the earlier ceilings are kept")
        emit(Progress(what="measuring ceilings", done=index, total=len(jobs), detail=name))
        try:
            with torch.inference_mode():
                found[name], spread[name] = job(repeats)
        except (OSError, RuntimeError):
            continue  # what cannot be measured here is absent, and the catalogue answers
    emit(Progress(what="measuring ceilings", done=len(jobs), total=len(jobs)))
    save(found, spread)
    return found


def save(found: dict[str, float], spread: dict[str, float]) -> Path:
    """Atomically, with the date and the spread."""
    path = ceilings_path(this_machine().fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps({
        "ceilings": found, "spread": spread,
        "measured_on": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}, indent=1))
    aside.replace(path)
    return path


def best(amount: float, work: Callable[[], Any], repeats: int) -> Rate:
    """``amount`` per second: the best repeat, and how far the median stays below it."""
    work()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        rates.append(amount / max(time.perf_counter() - began, 1e-9))
    rates.sort()
    return rates[-1], 1 - rates[len(rates) // 2] / rates[-1]


def ram_read(repeats: int) -> Rate:
    """Reading 256 MiB once, all threads: a sum over int64."""
    import torch

    data = torch.ones(256 << 17, dtype=torch.int64)
    return best(data.nbytes, data.sum, repeats)


def ram_copy(repeats: int) -> Rate:
    """Bytes read plus bytes written."""
    import torch

    data = torch.ones(128 << 17, dtype=torch.int64)
    target = torch.empty_like(data)
    return best(2 * data.nbytes, lambda: target.copy_(data), repeats)


def gemm(dtype: Any, device: str, repeats: int) -> Rate:
    """A square product on random numbers (zeros run faster than real data on some chips)."""
    import torch

    n = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))

    def work() -> None:
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()

    return best(2 * n**3, work, repeats)


def gemm_int8(device: str, repeats: int) -> Rate:
    """int8 operands, int32 result; absent where torch has no such product for the device."""
    import torch

    n = 1024 if device == "cpu" else 8192
    a, b = (torch.randint(-99, 99, (n, n), dtype=torch.int8, device=device) for _ in range(2))
    b = b.t()  # cuBLASLt wants the second operand by columns

    def work() -> None:
        torch._int_mm(a, b)
        if device != "cpu":
            torch.cuda.synchronize()

    return best(2 * n**3, work, repeats)


def product(weights: str, device: str, repeats: int) -> Rate:
    """Stored bytes per second of one row times matrices packed by a weights technique.

    The kernel that generation runs, over copies that together exceed the caches (CPU: 8 of 4096 x
    4096, so 75 MiB even at 4 bits; GPU: 16), one after another as the layers of a model are."""
    import torch

    from workbench.settings import Settings

    technique = Settings().with_(weights=weights).weights
    dtype = getattr(torch, technique.compute_dtype)
    one = technique.pack(torch.randn(4096, 4096, device=device).to(dtype), None)
    matrices: list[Any] = [one, *(copy.deepcopy(one) for _ in range(7 if device == "cpu" else 15))]
    x = torch.randn(1, 4096, device=device).to(dtype)

    def work() -> None:
        for matrix in matrices:
            matrix(x)
        if device != "cpu":
            torch.cuda.synchronize()

    return best(sum(m.nbytes for m in matrices), work, repeats)


def dispatch(repeats: int) -> Rate:
    """Host seconds per small operator; the best is the smallest."""
    import torch

    x = torch.ones(8)

    def work() -> None:
        for _ in range(2000):
            torch.add(x, 1)

    rate, spread = best(2000, work, repeats)
    return 1 / rate, spread


def disk_read(repeats: int) -> Rate:
    """Sequential 8 MiB reads of a fresh 64 MiB file, past the page cache where the system allows."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    size, block = 64 << 20, 8 << 20
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(os.urandom(1 << 20) * (size >> 20))
        file.flush()
        os.fsync(file.fileno())
        descriptor, direct = _open_past_the_cache(file.name)
        try:
            import mmap

            buffer = mmap.mmap(-1, block)  # page-aligned, as direct reads require

            def work() -> None:
                if not direct and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_DONTNEED)
                for offset in range(0, size, block):
                    os.preadv(descriptor, [buffer], offset)

            return best(size, work, min(repeats, 5))
        finally:
            os.close(descriptor)


def _open_past_the_cache(path: str) -> tuple[int, bool]:
    if hasattr(os, "O_DIRECT"):
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECT), True
        except OSError:
            pass  # tmpfs and some network file systems refuse it
    return os.open(path, os.O_RDONLY), False


def gpu_copy(repeats: int) -> Rate:
    """Device to device, bytes read plus bytes written."""
    import torch

    data = torch.ones(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(data)

    def work() -> None:
        target.copy_(data)
        torch.cuda.synchronize()

    return best(2 * data.nbytes, work, repeats)


def link(repeats: int, to_device: bool) -> Rate:
    """Pinned host memory to the device, or back."""
    import torch

    host = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    device = torch.empty_like(host, device="cuda")

    def work() -> None:
        _ = device.copy_(host) if to_device else host.copy_(device)
        torch.cuda.synchronize()

    return best(host.nbytes, work, repeats)


def gpu_launch(repeats: int) -> Rate:
    """Host seconds per small kernel, launches queued one after another."""
    import torch

    x = torch.ones(8, device="cuda")

    def work() -> None:
        for _ in range(2000):
            x.add_(1)
        torch.cuda.synchronize()

    rate, spread = best(2000, work, repeats)
    return 1 / rate, spread
