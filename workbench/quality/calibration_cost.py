"""What preparing a scheme costs: seconds and peak memory of its calibration, measured in a process of its own
with an empty cache, so that nothing made earlier is counted as free.

    python -m workbench.quality.calibration_cost < settings.json

prints {"seconds": ..., "peak_bytes": ...}.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, ModelError

if TYPE_CHECKING:
    from workbench.settings import Settings

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Cost:
    """``peak_bytes``: the process's high-water mark over what it held before; None where the system does
    not tell. Both are zero for a scheme that needs no calibration."""

    seconds: float
    peak_bytes: int | None


def cost(settings: Settings, cancelled: Callable[[], bool]) -> Cost:
    """Raises Cancelled, and ModelError with the sentence of whatever failed."""
    from workbench.techniques.weights import Weights

    if type(settings.weights).prepare is Weights.prepare:
        return Cost(0.0, 0)
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen([sys.executable, "-m", "workbench.quality.calibration_cost"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True, env={**os.environ, "WORKBENCH_HOME": folder})
        text = _wait(child, settings.to_json(), cancelled)
    return Cost(**json.loads(text.splitlines()[-1]))


def _wait(child: subprocess.Popen[str], text: str, cancelled: Callable[[], bool]) -> str:
    try:
        return _answer(child, text, cancelled)
    finally:
        if child.poll() is None:  # ctrl-c: nobody waits for it any more
            child.kill()
            child.communicate()


def _answer(child: subprocess.Popen[str], text: str, cancelled: Callable[[], bool]) -> str:
    sent: str | None = text
    while True:
        try:
            out, err = child.communicate(sent, timeout=0.3)
        except subprocess.TimeoutExpired:
            sent = None
            if cancelled():
                raise Cancelled("cancelled") from None
            continue
        if child.returncode:
            lines = err.strip().splitlines()
            raise ModelError(lines[-1] if lines else "the calibration's process ended without a word")
        return out


def measure(settings: Settings) -> dict[str, Any]:
    """In this process: prepares, and says what that took."""
    import torch

    torch.linalg.cholesky(torch.eye(64))  # the library's own buffers come first
    before = _status("VmRSS")
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    began = time.perf_counter()
    prepared = settings.weights.prepare(settings, lambda event: None, None)
    seconds = time.perf_counter() - began
    if prepared is not None:
        prepared.close()
    peak = _status("VmHWM")
    known = None if peak is None or before is None else max(0, peak - before)
    return {"seconds": seconds, "peak_bytes": known}


def _status(key: str) -> int | None:
    try:
        found = re.search(key + r":\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def main() -> None:
    from workbench.errors import WorkbenchError
    from workbench.settings import Settings

    try:
        print(json.dumps(measure(Settings.from_json(sys.stdin.read()))))
    except WorkbenchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
