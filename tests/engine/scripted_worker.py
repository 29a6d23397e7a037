"""A worker process whose executor follows a script: the protocol without torch.

The first prompt of a ``Generate`` says what happens, e.g. ``tokens 100`` or ``raise ValueError``.
"""

from __future__ import annotations

import builtins
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from workbench import errors
from workbench.engine.wire import Command, Generate, Load, Unload
from workbench.engine.worker import main
from workbench.events import Event, Token


class Scripted:
    def __init__(self, emit: Callable[[Event], None]) -> None:
        if os.environ.get("SCRIPTED_BROKEN"):
            raise ImportError("libcudart.so.12: cannot open shared object file")
        self.emit = emit
        self.log: list[str] = []

    def execute(self, command: Command, cancelled: Callable[[], bool]) -> dict[str, Any]:
        self.log.append(type(command).__name__)
        if isinstance(command, Load):
            return {"log": self.log}
        if isinstance(command, Unload):
            return {}
        assert isinstance(command, Generate)
        name, _, argument = command.prompts[0].partition(" ")
        result = getattr(self, "do_" + name)(argument, cancelled)
        return {"run": command.run_id, **(result or {})}

    def do_tokens(self, n: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
        for i in range(int(n)):
            if cancelled():
                raise errors.Cancelled("cancelled")
            self.emit(Token(run="r", t_s=time.time(), index=i, id=i, text=f"t{i} "))
            time.sleep(0.002)
        return {"tokens": int(n)}

    def do_raise(self, name: str, cancelled: Callable[[], bool]) -> None:
        kind = getattr(errors, name, None) or getattr(builtins, name)
        raise kind("the sentence")

    def do_full(self, path: str, cancelled: Callable[[], bool]) -> None:
        with open(path, "wb", buffering=0) as file:
            file.write(b"x" * 4096)

    def do_memory(self, _: str, cancelled: Callable[[], bool]) -> None:
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, limits[1]))
        try:
            bytearray(64 << 30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)

    def do_kill(self, _: str, cancelled: Callable[[], bool]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def do_exit(self, code: str, cancelled: Callable[[], bool]) -> None:
        os._exit(int(code))

    def do_input(self, _: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
        return {"read": sys.stdin.read()}

    def do_facts(self, _: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
        return {"argv": sys.argv, "environment": dict(os.environ), "modules": list(sys.modules)}

    def close(self) -> None:
        return


if __name__ == "__main__":
    main(make=Scripted)
