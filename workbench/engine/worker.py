"""The engine process: model work on the main thread, the socket on another.

    python -m workbench.engine.worker --report-to FD     # a local engine, keys on stdin
    python -m workbench.engine.worker --listen tcp://127.0.0.1:5555 --keys FOLDER

The process ends when its parent ends, when it is told to, or (remote) never by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from workbench.engine.link import Link
from workbench.engine.serving import Executes, serve
from workbench.events import Event


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="workbench.engine.worker")
    parser.add_argument("--report-to", type=int)
    parser.add_argument("--listen", default="tcp://127.0.0.1:*")
    parser.add_argument("--keys", type=Path)
    options = parser.parse_args(arguments)
    if options.report_to is None:
        from workbench.engine.remote import listen

        listen(options.listen, options.keys)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the client, which cancels
    given = json.loads(sys.stdin.read())
    end_with_parent(given["parent"])
    link = Link(options.listen, given["public"], given["secret"], {given["client"]},
                parent=given["parent"])
    with os.fdopen(options.report_to, "w") as report:
        report.write(link.address + "\n")
    serve(link, make_executor, log=given["log"])
    os._exit(0)  # torch's and CUDA's own threads must not delay the end


def make_executor(emit: Callable[[Event], None]) -> Executes:
    """The real executor; importing it imports torch."""
    from workbench.engine.executor import Executor

    return Executor(emit)


def end_with_parent(parent: int) -> None:
    """End now if the parent is gone already; later the link's thread watches.

    Linux's PR_SET_PDEATHSIG would fire when the *thread* that started this process ends, which is a
    dispatcher's thread and ends earlier than its process; so it is not used."""
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main()
