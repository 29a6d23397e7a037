"""Which function is the loop in? Its stack is read fifty times a second from a thread of its own.

It costs a few microseconds per look, needs no hook in what it looks at, and names whatever stands
between two forwards, ours or not. A look that finds the interpreter busy waits until it may run, so
shares are right to a few per cent, and short functions of native code are seen at their callers.
"""

from __future__ import annotations

import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from workbench.events import Event, HostStack

PERIOD_S = 0.02
#: Functions reported per run, most often seen first.
_MOST = 40
#: Part of a file's path -> what is done there; the innermost frame that matches decides.
_WHERE = (("runtime/sampling", "sampling"), ("runtime/verify", "sampling"),
          ("runtime/detokenize", "detokenizer"), ("tokenizers", "detokenizer"),
          ("tokenization_", "detokenizer"), ("runtime/streamer", "waiting"),
          ("workbench/telemetry", "telemetry"), ("runtime/drafts", "drafting"),
          ("techniques/decoding", "drafting"))
#: What computes a forward; a function elsewhere that is seen inside one holds it up.
_KNOWN = ("/torch/", "/transformers/", "/numpy/", "/accelerate/", "/triton/",
          *(str(Path(__file__).resolve().parents[n]).replace("\\", "/") + "/" + tail
            for n, tail in ((1, ""), (2, "kernels/"))),
          sysconfig.get_path("stdlib").replace("\\", "/") + "/")
_LOOKED = 60  # frames of a stack that are looked at


class Stacks:
    """``start()`` on the thread to look at, ``stop()`` when the run ends."""

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float],
                 inside: Callable[[], bool], period_s: float = PERIOD_S) -> None:
        """``inside``: whether a forward runs now."""
        self._emit, self._clock, self._inside, self._period_s = emit, clock, inside, period_s
        self._counts: Counter[tuple[str, str, bool]] = Counter()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._target = 0
        self._looks = 0
        self.cost_s = 0.0

    def start(self) -> None:
        self._target = threading.get_ident()
        self._thread = threading.Thread(target=self._run, name="host-stacks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(2)
        self._thread = None
        now = self._clock()
        for (what, where, between), n in self._counts.most_common(_MOST):
            self._emit(HostStack(t_s=now, what=what, where=where, samples=n, of=self._looks,
                                 between=between))

    def _run(self) -> None:
        turn = 0
        while not self._stop.wait(self._period_s * (0.75 + 0.5 * (turn * 0.618 % 1))):
            turn += 1  # uneven, so that it cannot walk in step with the loop
            began = time.thread_time()
            frame = sys._current_frames().get(self._target)
            if frame is not None:
                inside = self._inside()
                self._counts[(*place(frame, inside), not inside)] += 1
                self._looks += 1
            del frame
            self.cost_s += time.thread_time() - began


def place(frame: FrameType, inside: bool) -> tuple[str, str]:
    """(what, ``file:function:line``) of a stack: the innermost frame whose file says what it does."""
    where = _name(frame)
    if inside and _foreign(frame):
        return "stalled", where
    current: Any = frame
    for _ in range(_LOOKED):
        if current is None:
            break
        path = current.f_code.co_filename.replace("\\", "/")
        for part, what in _WHERE:
            if part in path:
                # `stacks` and `monitor` themselves wrap every forward; only their own work counts.
                if what == "telemetry" and current is not frame and inside:
                    break
                return what, where
        if current.f_code.co_name == "wait" and path.endswith("threading.py"):
            return "waiting", where
        current = current.f_back
    return ("forward" if inside else "host"), where


def _foreign(frame: FrameType) -> bool:
    """Is the innermost function neither torch's, nor the model library's, nor ours, nor Python's?"""
    path = frame.f_code.co_filename.replace("\\", "/")
    if frame.f_code.co_name == "forward":
        return False  # a module of the user's own computes, too
    return not path.startswith("<") and not any(part in path for part in _KNOWN)


def _name(frame: FrameType) -> str:
    code = frame.f_code
    path = code.co_filename.replace("\\", "/")
    return f"{'/'.join(path.split('/')[-2:])}:{code.co_name}:{frame.f_lineno}"
