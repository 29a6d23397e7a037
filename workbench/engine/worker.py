"""The engine process: model work on the main thread, the socket on another.

    python -m workbench.engine.worker --report-to FD     # a local engine, keys on stdin
    workbench engine --listen tcp://0.0.0.0:5555 --keys FOLDER     # one for other machines

A local engine ends when it is told to and when its parent ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from workbench.engine.link import Link
from workbench.engine.serving import Executes, Make, serve
from workbench.events import Event


def make_executor(emit: Callable[[Event], None]) -> Executes:
    """The real executor; making it imports torch and transformers."""
    from workbench.engine.executor import Executor

    return Executor(emit)


def main(arguments: list[str] | None = None, make: Make = make_executor) -> None:
    """``make``: what carries out the commands; tests give their own."""
    parser = argparse.ArgumentParser(prog="workbench.engine.worker")
    parser.add_argument("--report-to", type=int, required=True, metavar="FD",
                        help="where to write the address")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the client, which cancels
    given = json.loads(sys.stdin.read())
    _no_stdin()
    _go_first()
    if os.getppid() != given["parent"]:
        os._exit(0)
    # PR_SET_PDEATHSIG would fire when the *thread* that started this process ends, and that is a
    # dispatcher's, which ends before its process; so the link's thread watches the parent instead.
    link = Link("tcp://127.0.0.1:*", given["public"], given["secret"], {given["client"]},
                parent=given["parent"])
    with os.fdopen(options.report_to, "w") as report:
        report.write(link.address + "\n")
    serve(link, make, log=given["log"])
    os._exit(0)  # torch's and CUDA's own threads must not delay the end


def _no_stdin() -> None:
    """Library code that asks a question gets an end of file, not a hang."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _go_first() -> None:
    """When the machine's memory runs out, the kernel should end this process, not the notebook."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    main()
