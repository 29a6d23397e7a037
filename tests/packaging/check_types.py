"""Type-check the installed wheel, not the checkout.

In a checkout the checkers do not see kernels/, widgets/ and apps/ under ``workbench`` and report a
false success. So: build the wheel, unpack it beside nothing else, run mypy on the package there.

    python tests/packaging/check_types.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build_wheel(into: Path) -> Path:
    """The project's wheel, built with the setuptools of this environment (no network)."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", into, ROOT],
        check=True, stdout=subprocess.DEVNULL)
    return next(into.glob("*.whl"))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        with zipfile.ZipFile(build_wheel(Path(folder))) as wheel:
            wheel.extractall(site)
        config = ROOT / "pyproject.toml"
        cache = Path(folder) / "cache"  # a kept one answers for files of an earlier wheel
        command = [sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", cache,
                   "-p", "workbench"]
        return subprocess.run(command, cwd=site, env=_environment(site)).returncode


def _environment(site: Path) -> dict[str, str]:
    """MYPYPATH first finds the unpacked wheel; the editable install must not answer instead."""
    import os

    return {**os.environ, "MYPYPATH": str(site)}


if __name__ == "__main__":
    sys.exit(main())
