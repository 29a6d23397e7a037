"""This machine, described without torch: processors, memory, GPUs, and its measured ceilings."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """One CUDA device as NVML reports it."""

    index: int
    name: str
    memory_bytes: int
    driver: str = ""


@dataclass(frozen=True)
class Machine:
    """``ceilings``: measured rates, by name (``ram_bytes_per_s``, ``gemm_bf16_flops`` ...); empty
    until measured (``workbench doctor --measure`` or an engine's first start)."""

    cpu: str
    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    system: str = ""
    python: str = ""
    ceilings: dict[str, float] = field(default_factory=dict, compare=False)
    measured_on: str = ""

    @property
    def fingerprint(self) -> str:
        """Same hardware, same letters: the key of the cached ceilings."""
        text = "|".join([self.cpu, str(self.cores), *(g.name for g in self.gpus)])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def home() -> Path:
    """Where caches and runs live: ``$WORKBENCH_HOME`` or ``~/.workbench``."""
    return Path(os.environ.get("WORKBENCH_HOME") or Path.home() / ".workbench")


def ceilings_path(fingerprint: str) -> Path:
    return home() / "ceilings" / f"{fingerprint}.json"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> tuple[Gpu, ...]:
    """Empty where there is no driver or no nvidia-ml-py: absence is not an error."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return ()
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name = pynvml.nvmlDeviceGetName(handle)
        found.append(Gpu(index, name if isinstance(name, str) else name.decode(),
                         int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                         str(pynvml.nvmlSystemGetDriverVersion())))
    return tuple(found)


@functools.cache
def _hardware() -> Machine:
    import psutil

    return Machine(
        cpu=_cpu_name(), cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total, gpus=_gpus(),
        system=f"{platform.system()} {platform.release()}", python=platform.python_version())


def this_machine() -> Machine:
    """The machine with its cached ceilings, if they were measured."""
    import dataclasses

    machine = _hardware()
    try:
        data = json.loads(ceilings_path(machine.fingerprint).read_text())
        return dataclasses.replace(machine, ceilings=data["ceilings"], measured_on=data["measured_on"])
    except (OSError, KeyError, json.JSONDecodeError):
        return machine
