"""Starting and ending the child process of a local engine.

A fresh interpreter, not a fork and not multiprocessing's spawn: the first shares a broken CUDA
state, the second runs the notebook's main module again. The keys go through the child's stdin, so
they appear in no command line and no environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from workbench.engine.keys import KeyPair
from workbench.errors import EngineDied
from workbench.machine import home

#: A worker that has not even bound its socket by then never will (the slow imports come later).
_START_S = 60.0
_LOGS_KEPT = 20


class Child:
    """The process, its log, its keys, and the address it reports when it listens."""

    def __init__(self, module: str = "workbench.engine.worker") -> None:
        """Starts it and returns at once. Raises EngineDied when the system refuses."""
        self.server, self.client = KeyPair.new(), KeyPair.new()
        self.log = log_path()
        self._report, write_end = os.pipe()
        try:
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, "--report-to", str(write_end)],
                    stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=[write_end],
                    env=environment(), start_new_session=True)
        except OSError as error:
            os.close(self._report)
            raise EngineDied(f"the engine could not start ({error.strerror}); close other programs "
                             "and try again") from None
        finally:
            os.close(write_end)
        self._tell()

    def _tell(self) -> None:
        secrets = {"public": self.server.public, "secret": self.server.secret,
                   "client": self.client.public, "parent": os.getpid(), "log": str(self.log)}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended already; address() says why
            self._process.stdin.write(json.dumps(secrets).encode())
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def address(self, given_up: Callable[[], bool]) -> str:
        """Waits until the child listens. Empty when ``given_up()``; raises EngineDied with the end
        of its log when it ends or hangs instead."""
        deadline = time.monotonic() + _START_S
        while not given_up() and time.monotonic() < deadline:
            if select.select([self._report], [], [], 0.1)[0]:
                text = os.read(self._report, 200).decode().strip()
                os.close(self._report)
                if text:
                    return text
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(5)
                raise EngineDied(self.obituary(started=False))
        if given_up():
            return ""
        raise EngineDied(f"the engine did not start within {_START_S:g} s: {self.tail()} "
                         f"(log: {self.log})")

    def tail(self, lines: int = 2) -> str:
        """The end of the log, on one line."""
        try:
            text = self.log.read_text(errors="replace").strip()
        except OSError:
            return "its log cannot be read"
        return " ".join(text.splitlines()[-lines:])[-400:] or "it wrote nothing to its log"

    def obituary(self, started: bool) -> str:
        """Why it is gone, in one sentence."""
        if not started:
            return f"the engine could not start ({self._how()}): {self.tail()} (log: {self.log})"
        return (f"the engine process ended unexpectedly ({self._how()}); finished runs are safe and "
                "the next run starts a new engine")

    def _how(self) -> str:
        """``killed by signal 9, ...`` or ``exit code 1``."""
        code = self._process.returncode
        if code == -9:
            return "killed by signal 9; the system does that when memory runs out"
        return f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def end(self, timeout: float, told: bool) -> None:
        """Wait for it if it was told to go; terminate, then kill one that does not."""
        for stop in (None, self._process.terminate, self._process.kill)[not told:]:
            if stop is not None:
                stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
                break


def log_path() -> Path:
    """A new file for the engine's output and tracebacks; the newest few are kept."""
    name = f"engine-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-"
    for folder in (home() / "logs", Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle, path = tempfile.mkstemp(prefix=name, suffix=".log", dir=folder)
            os.close(handle)
            for old in sorted(folder.glob("engine-*.log"))[:-_LOGS_KEPT]:
                with contextlib.suppress(OSError):
                    old.unlink()
            return Path(path)
    raise EngineDied("the engine could not start: neither WORKBENCH_HOME nor the temporary folder "
                     "can be written; free some space")


def environment() -> dict[str, str]:
    """The child's environment: this one's; a checkout stays importable; nothing phones home."""
    import workbench

    own = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
           "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    # Threads that wait asleep lose tens of microseconds per operator on a quiet machine; threads
    # that spin lose everything when a neighbour takes a core (measured with 2 cores and a load of
    # 5: 56 small products take 54 ms spinning and 8 ms asleep). The user's own choice wins.
    own["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    root = Path(workbench.__file__).parent.parent
    if (root / "pyproject.toml").is_file():
        roots = [str(root), os.environ.get("PYTHONPATH", "")]
        own["PYTHONPATH"] = os.pathsep.join(r for r in roots if r)
    return {**os.environ, **own}
