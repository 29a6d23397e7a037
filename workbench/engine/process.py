"""Starting and ending the child process of a local engine.

A fresh interpreter, not a fork and not multiprocessing's spawn: the first shares a broken CUDA
state, the second runs the notebook's main module again. The keys go through the child's stdin, so
they appear in no command line and no environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from workbench.engine.keys import KeyPair
from workbench.errors import EngineDied
from workbench.machine import home


def spawn() -> tuple[subprocess.Popen[bytes], str, str, KeyPair]:
    """(process, address, the engine's public key, the client's pair). Raises EngineDied."""
    server, client = KeyPair.new(), KeyPair.new()
    log = log_path()
    read_end, write_end = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench.engine.worker", "--report-to", str(write_end)],
            stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=[write_end],
            env=environment(), start_new_session=True)
    os.close(write_end)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps({
            "public": server.public, "secret": server.secret, "client": client.public,
            "parent": os.getpid(), "log": str(log)}).encode())
        process.stdin.close()
    with os.fdopen(read_end) as report:
        address = report.readline().strip()
    if not address:
        process.wait(5)
        raise EngineDied(f"the engine could not start: {tail(log)}")
    return process, address, server.public, client


def log_path() -> Path:
    """Where the engine's own output and tracebacks go."""
    try:
        folder = home() / "logs"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="workbench-"))
    for old in sorted(folder.glob("engine-*.log"))[:-20]:
        with contextlib.suppress(OSError):
            old.unlink()
    handle, name = tempfile.mkstemp(prefix="engine-", suffix=".log", dir=folder)
    os.close(handle)
    return Path(name)


def environment() -> dict[str, str]:
    """The child's environment: this one's, with the checkout importable and no hub unless asked."""
    import workbench

    roots = [str(Path(workbench.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(r for r in roots if r),
            "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def tail(log: Path, lines: int = 3) -> str:
    """The end of the engine's log, on one line."""
    try:
        return " ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])[-600:]
    except OSError:
        return "its log cannot be read"


def end(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Wait for the child; terminate, then kill one that does not go."""
    for stop in (None, process.terminate, process.kill):
        if stop is not None:
            stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
            return
