"""One GPU's sensors through NVML.

The instant and the averaged power are different fields and stay apart: on recent data-centre parts
the default reading is a trailing average of about a second, and the instant one is itself a mean over
a part of its update interval (25 of 100 ms on A100 and H100; Yang et al. 2024, arXiv:2312.02741).
The energy counter is preferred for joules. What a device does not support is None, not an exception.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from workbench.events import Power, SensorStatus
from workbench.telemetry.power_quality import Changes

#: (NVML module, device) -> what watching its fields showed.
_SEEN: dict[tuple[int, int], dict[str, float | None]] = {}
#: How long the fields are watched, once per process and device; a field that changes every 100 ms
#: shows four gaps in it.
WATCH_S = 0.5
_REASONS = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "thermal (software)",
            0x40: "thermal (hardware)", 0x80: "power brake"}


class Nvml:
    """One GPU through nvidia-ml-py. ``api``: the pynvml module (tests inject recorded behaviour)."""

    def __init__(self, index: int, api: Any) -> None:
        self._api, self._index = api, index
        self._handle = api.nvmlDeviceGetHandleByIndex(index)
        self._zero_mj: int | None = None
        self._seen_us = 0

    def status(self, beat: Callable[[], bool] | None = None) -> SensorStatus:
        """What this GPU reports and how often. ``beat`` is called while the fields
        are watched; False from it ends the watching."""
        first = self.read()
        have = [n for n in ("instant_w", "average_w", "energy_j") if getattr(first, n) is not None]
        seen = self._periods(have, beat) if have else {}
        return SensorStatus(
            device=f"gpu{self._index}", source="NVML", available=bool(have),
            period_s=seen.get("energy_j"), instant_period_s=seen.get("instant_w"),
            average_period_s=seen.get("average_w"),
            reason="fields: " + ", ".join(have) if have else "this GPU reports no power to NVML")

    def period(self) -> float | None:
        """Seconds between the counter's updates; looked for once per process and device."""
        return self._periods(["energy_j"], None).get("energy_j")

    def _periods(self, have: list[str], beat: Callable[[], bool] | None) -> dict[str, float | None]:
        key = (id(self._api), self._index)
        known = _SEEN.setdefault(key, {})
        # A counter that stood still (an idle device) is looked at again; a constant power is not.
        if any(name not in known for name in have) or ("energy_j" in have and not known["energy_j"]):
            known.update(self.watch(have, WATCH_S, beat))
        return known

    def watch(self, fields: list[str], limit_s: float, beat: Callable[[], bool] | None = None
              ) -> dict[str, float | None]:
        """Field -> median gap between its changes, None when it did not change twice."""
        ask = {"energy_j": self._energy_mj, "instant_w": self._instant_mw, "average_w": self._average_mw}
        changes = {name: Changes() for name in fields}
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            for name, seen in changes.items():
                seen.look(ask[name](), time.monotonic())
            if beat is not None and not beat():
                break
            time.sleep(0.002)
        return {name: seen.period() for name, seen in changes.items()}

    def read(self) -> Power:
        energy = self._energy_mj()
        if energy is not None and self._zero_mj is None:
            self._zero_mj = energy
        milliwatts, average = self._instant_mw(), self._average_mw()
        load = self._ask("nvmlDeviceGetUtilizationRates")
        clock = self._ask("nvmlDeviceGetClockInfo", getattr(self._api, "NVML_CLOCK_SM", 1))
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return Power(
            device=f"gpu{self._index}", source="NVML", instant_w=_watts(milliwatts),
            average_w=_watts(average),
            energy_j=None if energy is None else (energy - (self._zero_mj or 0)) / 1000,
            utilization=None if load is None else load.gpu / 100,
            clock_hz=None if clock is None else clock * 1e6, limit_w=_watts(limit),
            temperature_c=self._ask("nvmlDeviceGetTemperature", 0), throttled=self._throttled(),
            others=self._others())

    def _energy_mj(self) -> int | None:
        return self._ask("nvmlDeviceGetTotalEnergyConsumption")

    def _instant_mw(self) -> float | None:
        return self._field("NVML_FI_DEV_POWER_INSTANT")

    def _average_mw(self) -> float | None:
        """Without the fields (before Hopper's drivers): the reading that is an average on most parts."""
        average = self._field("NVML_FI_DEV_POWER_AVERAGE")
        if average is None and self._instant_mw() is None:
            average = self._ask("nvmlDeviceGetPowerUsage")
        return average

    def _field(self, name: str) -> float | None:
        """An NVML field value in mW; None where the driver or the device does not have it."""
        number = getattr(self._api, name, None)
        if number is None:
            return None
        try:
            value = self._api.nvmlDeviceGetFieldValues(self._handle, [number])[0]
            return None if value.nvmlReturn else float(value.value.uiVal)
        except Exception:
            return None

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._api, function)(self._handle, *arguments)
        except Exception:
            return None

    def _throttled(self) -> str:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return ", ".join(text for bit, text in _REASONS.items() if bits and bits & bit)

    def _others(self) -> float | None:
        """Share of the SMs' busy time that other processes had; None where NVML cannot tell.

        In a container our own process number is not the one that NVML lists, so a single process
        is taken for ours and several unknown ones give no number."""
        samples = self._ask("nvmlDeviceGetProcessUtilization", self._seen_us)
        if not samples:
            return None
        self._seen_us = max(int(s.timeStamp) for s in samples)
        busy: dict[int, float] = {}
        for s in samples:
            busy[s.pid] = busy.get(s.pid, 0.0) + s.smUtil
        total = sum(busy.values())
        if not total or (len(busy) > 1 and os.getpid() not in busy):
            return None
        mine = busy.get(os.getpid(), total)
        return 1 - mine / total

    def close(self) -> None:
        return None


def _watts(milliwatts: float | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
