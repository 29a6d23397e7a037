"""``workbench doctor``: what this machine has, and what follows from what it lacks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import click

from workbench.cli.common import console, print_json, text_table
from workbench.machine import Machine, home, this_machine
from workbench.units import format_bytes

#: package -> what is missing without it.
PACKAGES = {
    "torch": "no engine can run", "transformers": "no model can be opened",
    "triton": "GPU kernels fall back to torch", "jupyterlab": "no `workbench lab`",
    "panel": "no `workbench serve`", "anywidget": "notebook charts are static",
    "pynvml": "no GPU power or memory readings", "polars": "no analysis",
}


@click.command("doctor")
@click.option("--measure", is_flag=True, help="measure this machine's ceilings (some seconds)")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(measure: bool, as_json: bool) -> None:
    """Look at the machine: processors, memory, sensors, packages, ceilings."""
    if measure:
        measure_ceilings()
    rows = checks(this_machine())
    if as_json:
        print_json({"machine": this_machine().to_dict(), "checks": rows})
        return
    table = [[r["what"], r["state"], r["found"], r["follows"]] for r in rows]
    console().print(text_table("", ["what", "state", "found", "what follows"], table,
                               numbers=False))


def measure_ceilings() -> None:
    from workbench.cli.common import open_session
    from workbench.settings import Settings

    with console(stderr=True).status("measuring bandwidths and rates"), \
            open_session(Settings()) as session:
        session.measure_machine(wait=True)


def checks(machine: Machine) -> list[dict[str, str]]:
    """One row per thing: ``state`` is ``ok``, ``absent`` or ``limited``."""
    return [*_hardware(machine), *_sensors(machine), *_packages(), _disk(), *_ceilings(machine)]


def _row(what: str, ok: bool, found: str, follows: str, state: str = "") -> dict[str, str]:
    return {"what": what, "state": state or ("ok" if ok else "absent"), "found": found,
            "follows": "" if ok else follows}


def _hardware(machine: Machine) -> list[dict[str, str]]:
    flags = _cpu_flags()
    wanted = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if f in flags]
    rows = [
        _row("processor", True, f"{machine.cpu}, {machine.cores} cores", ""),
        _row("instructions", bool(wanted), ", ".join(wanted) or "none of AVX2, AVX-512, AMX",
             "CPU kernels run on the generic path"),
        _native(),
        _row("memory", True, format_bytes(machine.memory_bytes), "")]
    for gpu in machine.gpus:
        rows.append(_row(f"GPU {gpu.index}", True, f"{gpu.name}, "
                         f"{format_bytes(gpu.memory_bytes)}, driver {gpu.driver}", ""))
    if not machine.gpus:
        rows.append(_row("GPU", False, "no NVIDIA GPU or driver", "models run on the CPU"))
    return rows


def _native() -> dict[str, str]:
    """Whether the compiled CPU kernels run, and with what; the compiler that could make them."""
    from workbench.kernels import native
    from workbench.kernels.native import build

    compiler = build.compiler() or "no C++ compiler"
    if not native.available():
        return _row("CPU kernels", False, f"{native.why_not()}; {compiler}",
                    "torch's own kernels run; int8 and int4 are slower")
    found = f"{native.isa()}; compiler: {compiler}"
    if native.stale():
        return _row("CPU kernels", False, found, "built from older sources; run `make install`",
                    state="limited")
    return _row("CPU kernels", True, found, "")


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()


def _sensors(machine: Machine) -> list[dict[str, str]]:
    zones = sorted(Path("/sys/class/powercap").glob("intel-rapl:*/energy_uj"))
    readable = [z for z in zones if _readable(z)]
    rapl = "readable" if readable else "present, not readable" if zones else "not present"
    return [
        _row("CPU energy (RAPL)", bool(readable), rapl,
             "no measured J/token on the CPU; the counter needs bare metal and read permission"),
        _row("GPU energy (NVML)", bool(machine.gpus), f"{len(machine.gpus)} devices",
             "no measured J/token on a GPU")]


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_text())
    except OSError:
        return False


def _packages() -> list[dict[str, str]]:
    distribution = {"pynvml": "nvidia-ml-py"}
    rows = []
    for name, missing in PACKAGES.items():
        there = importlib.util.find_spec(name) is not None
        try:
            version = importlib.metadata.version(distribution.get(name, name)) if there else ""
        except importlib.metadata.PackageNotFoundError:
            version = "?"
        rows.append(_row(name, there, version or "not installed", missing))
    return rows


def _disk() -> dict[str, str]:
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return _row("disk", free > 2**30, f"{format_bytes(free)} free for runs in {home()}",
                "less than 1 GiB: recording runs may fail")


def _ceilings(machine: Machine) -> list[dict[str, str]]:
    if not machine.ceilings:
        return [_row("ceilings", False, "not measured", "forecasts use catalogue figures, labelled "
                     "estimated; `workbench doctor --measure` measures them")]
    return [_row(f"ceiling {name}", True, _rate(name, value), "")
            for name, value in sorted(machine.ceilings.items())]


def _rate(name: str, value: Any) -> str:
    if "bytes_per_s" in name:
        return f"{value / 1e9:.1f} GB/s"
    if "flops" in name:
        return f"{value / 1e9:.0f} GFLOP/s"
    if name.endswith("_s"):
        return f"{value * 1e6:.1f} µs"
    return f"{value:g}"
