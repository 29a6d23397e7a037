"""Changing a GPU's power limit or clocks, and giving them back whatever happens.

Nothing is changed without a caller that says it has consent. Before the first change the values to
restore are written to a file and a small process of its own is started that restores them when this
one ends without having done so (killed, crashed); leaving the ``with`` block, an exception, Ctrl-C and
SIGTERM restore at once. What a machine forbids is one sentence.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import WorkbenchError


class NotPermitted(WorkbenchError):
    """The driver refused the change: rights, a virtual machine, or a part that cannot."""


@dataclass(frozen=True)
class Range:
    """What a GPU allows. ``power_w`` now, its default, least and most; ``clocks_mhz`` supported SM
    clocks (empty: cannot be locked)."""

    device: int
    name: str
    power_w: float | None
    default_w: float | None
    least_w: float | None
    most_w: float | None
    clocks_mhz: tuple[int, ...] = ()


def ranges(api: Any) -> list[Range]:
    """Every GPU's limits, read only. ``api``: pynvml after nvmlInit."""
    return [_range(api, i) for i in range(api.nvmlDeviceGetCount())]


def _range(api: Any, index: int) -> Range:
    handle = api.nvmlDeviceGetHandleByIndex(index)

    def ask(function: str, *arguments: Any) -> Any:
        try:
            return getattr(api, function)(handle, *arguments)
        except Exception:
            return None

    least, most = ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
    memory = ask("nvmlDeviceGetSupportedMemoryClocks") or []
    clocks = ask("nvmlDeviceGetSupportedGraphicsClocks", max(memory)) if memory else None
    name = ask("nvmlDeviceGetName") or f"gpu{index}"
    return Range(index, name if isinstance(name, str) else name.decode(),
                 _watts(ask("nvmlDeviceGetPowerManagementLimit")),
                 _watts(ask("nvmlDeviceGetPowerManagementDefaultLimit")), _watts(least), _watts(most),
                 tuple(sorted(set(clocks or ()))))


def _watts(milliwatts: float | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


@dataclass(frozen=True)
class Change:
    """One setting of one GPU. ``kind``: ``power`` (W) or ``clock`` (MHz)."""

    device: int
    kind: str
    value: float

    def call(self) -> str:
        """The NVML call, exactly, and the same as a command."""
        if self.kind == "power":
            return (f"nvmlDeviceSetPowerManagementLimit(gpu{self.device}, {round(1000 * self.value)} mW)"
                    f"  =  nvidia-smi -i {self.device} -pl {self.value:g}")
        clock = round(self.value)
        return (f"nvmlDeviceSetGpuLockedClocks(gpu{self.device}, {clock}, {clock} MHz)"
                f"  =  nvidia-smi -i {self.device} -lgc {clock},{clock}")


def restoring(before: Range, kind: str) -> str:
    """The call that undoes a change of this kind."""
    if kind == "power":
        return Change(before.device, "power", before.power_w or before.default_w or 0).call()
    return (f"nvmlDeviceResetGpuLockedClocks(gpu{before.device})"
            f"  =  nvidia-smi -i {before.device} -rgc")


def apply(api: Any, change: Change) -> None:
    """Make the change. Raises NotPermitted with what to do."""
    handle = api.nvmlDeviceGetHandleByIndex(change.device)
    try:
        if change.kind == "power":
            api.nvmlDeviceSetPowerManagementLimit(handle, round(1000 * change.value))
        else:
            clock = round(change.value)
            api.nvmlDeviceSetGpuLockedClocks(handle, clock, clock)
    except Exception as error:
        raise NotPermitted(
            f"the driver refused to set the {change.kind} of gpu{change.device} ({error}); it needs "
            f"administrator rights on the host (sudo, not inside a container): {change.call()}"
        ) from None


def undo(api: Any, before: Range, kind: str) -> None:
    """Give back what was there. Raises NotPermitted."""
    handle = api.nvmlDeviceGetHandleByIndex(before.device)
    try:
        if kind == "power":
            watts = before.power_w or before.default_w
            if watts is not None:
                api.nvmlDeviceSetPowerManagementLimit(handle, round(1000 * watts))
        else:
            api.nvmlDeviceResetGpuLockedClocks(handle)
    except Exception as error:
        raise NotPermitted(f"the {kind} of gpu{before.device} could not be restored ({error}); do it by "
                           f"hand: {restoring(before, kind)}") from None


@dataclass
class Held:
    """Changes under guard; ``set`` makes one."""

    api: Any
    before: Range
    kind: str
    changed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, value: float) -> None:
        self.changed = True
        apply(self.api, Change(self.before.device, self.kind, value))

    def restore(self) -> None:
        """Once, however often it is called."""
        with self._lock:
            if self.changed:
                undo(self.api, self.before, self.kind)
                self.changed = False


@contextlib.contextmanager
def held(api: Any, before: Range, kind: str, *, consent: bool) -> Iterator[Held]:
    """Change a GPU's power limit or clocks inside this block only.

    Raises WorkbenchError without ``consent``; restores on leaving, on any exception, on SIGTERM, and
    through the guard process when this one is killed."""
    if not consent:
        raise WorkbenchError("changing a GPU's power limit or clocks needs your consent: pass "
                             "--yes-change-power-limit, or look at the dry run first")
    hand = Held(api, before, kind)
    guard = _guard(before, kind)
    previous = _on_terminate(hand)
    try:
        yield hand
    finally:
        try:
            hand.restore()
        finally:
            _dismiss(guard)
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)


def _guard(before: Range, kind: str) -> subprocess.Popen[bytes]:
    """A process in a session of its own (so that Ctrl-C does not reach it) that waits for our end."""
    watts = before.power_w or before.default_w or 0
    return subprocess.Popen(
        [sys.executable, "-m", "workbench.telemetry.power_guard", str(before.device), kind,
         str(round(1000 * watts))], stdin=subprocess.PIPE, start_new_session=True)


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        guard.communicate(b"restored\n", timeout=10)


def _on_terminate(hand: Held) -> Any:
    """SIGTERM becomes an exception, so that the block's end runs; only the main thread may ask."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def stop(number: int, frame: Any) -> None:
        hand.restore()
        raise SystemExit(143)

    return signal.signal(signal.SIGTERM, stop)
