"""What this machine's power sensors are, how good they are, and its idle power."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from workbench.analysis.energy_sensors import Sensor, sensors
from workbench.machine import Machine, this_machine


def look(seconds: float = 2.0, machine: Machine | None = None, found: list[Any] | None = None
         ) -> list[Sensor]:
    """Watch every sensor for ``seconds`` and judge it as a run's are judged. ``found``: sensors to use
    instead of this machine's (tests)."""
    import threading
    import time

    from workbench.telemetry import power, power_idle

    machine = machine or this_machine()
    events: list[Any] = []
    zero = time.monotonic()
    load = power.Load()
    every = power.sensors(machine, load=load) if found is None else found
    poller = power.PowerPoller(every, events.append, lambda: time.monotonic() - zero, load=load,
                               idle=power_idle.load(machine))
    poller.start()
    if any(not isinstance(s, power.Absent) for s in every):
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait(seconds)
    poller.stop()
    return sensors(events)


def idle_known(machine: Machine | None = None) -> dict[tuple[str, str], Any]:
    """(device, source) -> idle power that was measured here before."""
    from workbench.telemetry import power_idle

    return power_idle.load(machine or this_machine())


def measure_idle(seconds: float, progress: Callable[[float], None] = lambda share: None,
                 machine: Machine | None = None) -> dict[tuple[str, str], Any]:
    """Idle power of every live sensor, remembered for the runs of this machine. Empty without sensors."""
    import datetime

    from workbench.telemetry import power, power_idle

    machine = machine or this_machine()
    load = power.Load()
    live = [s for s in power.sensors(machine, load=load) if s.status().available]
    if not live:
        return {}
    when = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    found = power_idle.measure(live, seconds, f"measured for {seconds:g} s on {when}, no model loaded",
                               progress=progress, load=load)
    for sensor in live:
        sensor.close()
    if found:
        power_idle.save(machine, {**power_idle.load(machine), **found})
    return found


def ranges() -> tuple[list[Any], str]:
    """(what power limits and clocks each GPU allows, why there are none)."""
    from workbench.telemetry import power_limits

    if not this_machine().gpus:
        return [], "this machine has no NVIDIA GPU, so there is no power limit or clock to change"
    try:
        return power_limits.ranges(nvml()), ""
    except Exception as error:
        return [], f"NVML does not answer ({error})"


def nvml() -> Any:
    """pynvml, initialized. Raises what it raises."""
    import pynvml

    pynvml.nvmlInit()
    return pynvml
