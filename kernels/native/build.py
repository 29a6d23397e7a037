"""Compiles every C++ file under ``kernels/`` into one shared library with a plain C ABI.

    python -m workbench.kernels.native.build        in a checkout
    (``pip install`` and ``make install`` do the same)

Needs g++ or clang++ (or $CXX). Instruction sets are chosen per function in the sources and at run time, so
one library serves every processor of its architecture. Nothing of Python or torch is compiled in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FILE = "_native.so"
ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
         "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas",
         "-Wno-ignored-attributes", "-Wno-maybe-uninitialized", "-Wno-uninitialized",
         "-pthread")


class BuildError(Exception):
    """What the compiler said, or that there is none."""


def sources() -> list[Path]:
    """Every C++ file, in a fixed order."""
    return sorted(ROOT.glob("*/*.cpp"))


def headers() -> list[Path]:
    return sorted(ROOT.glob("*/*.h"))


def digest(files: Sequence[Path]) -> str:
    """A short hash of names and contents."""
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.parent.name}/{file.name}\0".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def compiler() -> str:
    """The C++ compiler's path, or ""."""
    wanted = os.environ.get("CXX", "").split()
    return next((p for c in (*wanted[:1], "g++", "clang++", "c++") if (p := shutil.which(c))), "")


def build(target: Path | None = None) -> Path:
    """Compiles to ``target`` (default: beside this file). Raises BuildError."""
    target = target or Path(__file__).parent / FILE
    cxx = compiler()
    if not cxx:
        raise BuildError("no C++ compiler: install g++ or clang++, or set CXX")
    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder) / "stamp.cpp"
        stamp.write_text(_stamp())
        units = [*sources(), stamp]
        objects = [Path(folder) / f"{i}.o" for i in range(len(units))]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            jobs = [pool.submit(_run, [cxx, *FLAGS, "-c", str(unit), "-o", str(made)])
                    for unit, made in zip(units, objects, strict=True)]
            for job in jobs:
                job.result()
        made = target.with_name(f".{target.name}.{os.getpid()}")
        target.parent.mkdir(parents=True, exist_ok=True)
        _run([cxx, "-shared", "-pthread", *map(str, objects), "-o", str(made)])
        made.replace(target)  # a process that has the old one open keeps it
    return target


def _stamp() -> str:
    """What the library says about the files it was made from."""
    visible = 'extern "C" __attribute__((visibility("default"))) const char* '
    return "".join(f'{visible}{name}(void) {{ return "{digest(files)}"; }}\n'
                   for name, files in (("wb_sources", sources()), ("wb_headers", headers())))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    if done.stderr.strip():
        print(done.stderr.strip(), file=sys.stderr)


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as problem:
        sys.exit(str(problem))
