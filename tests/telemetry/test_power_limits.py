"""Power limits: nothing without consent, restored on every way out, even when the process is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from workbench.energy import sweep
from workbench.errors import WorkbenchError
from workbench.events import Metric
from workbench.telemetry import power_limits
from workbench.telemetry.power_limits import Change, NotPermitted, Range

#: A pynvml whose GPU is a file, so that two processes see one device.
PYNVML = '''
import json, os
PATH = os.environ["FAKE_GPU"]
def _load(): return json.load(open(PATH))
def _save(d):
    with open(PATH + ".new", "w") as f: json.dump(d, f)
    os.replace(PATH + ".new", PATH)
def nvmlInit(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(i): return i
def nvmlDeviceGetName(h): return "NVIDIA Fake"
def nvmlDeviceGetPowerManagementLimit(h): return _load()["limit"]
def nvmlDeviceGetPowerManagementDefaultLimit(h): return 700000
def nvmlDeviceGetPowerManagementLimitConstraints(h): return [200000, 700000]
def nvmlDeviceGetSupportedMemoryClocks(h): return [2619]
def nvmlDeviceGetSupportedGraphicsClocks(h, m): return [1980, 1500, 1005]
def nvmlDeviceSetPowerManagementLimit(h, mw):
    d = _load()
    if d.get("refuse"): raise RuntimeError("Insufficient Permissions")
    d["limit"] = mw; d["log"].append(mw); _save(d)
def nvmlDeviceSetGpuLockedClocks(h, a, b):
    d = _load(); d["clock"] = a; _save(d)
def nvmlDeviceResetGpuLockedClocks(h):
    d = _load(); d["clock"] = None; _save(d)
'''


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(the fake's module, its state file); on the path of child processes too."""
    import importlib.util

    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "pynvml.py").write_text(PYNVML)
    state = tmp_path / "gpu.json"
    state.write_text(json.dumps({"limit": 650000, "clock": None, "log": []}))
    monkeypatch.setenv("FAKE_GPU", str(state))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    spec = importlib.util.spec_from_file_location("fake_pynvml", tmp_path / "lib" / "pynvml.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module, state


def limit(state: Path) -> int:
    return json.loads(state.read_text())["limit"]


def before(api: Any) -> Range:
    (only,) = power_limits.ranges(api)
    return only


def test_the_range_is_read(gpu: Any) -> None:
    assert before(gpu[0]) == Range(0, "NVIDIA Fake", 650.0, 700.0, 200.0, 700.0, (1005, 1500, 1980))


def test_nothing_is_changed_without_consent(gpu: Any) -> None:
    api, state = gpu
    with pytest.raises(WorkbenchError, match="--yes-change-power-limit"), \
            power_limits.held(api, before(api), "power", consent=False):
        pytest.fail("entered")
    assert json.loads(state.read_text())["log"] == []


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_what_was_there_is_restored(gpu: Any, error: type[BaseException] | None) -> None:
    api, state = gpu

    def work() -> None:
        with power_limits.held(api, before(api), "power", consent=True) as hand:
            hand.set(300)
            assert limit(state) == 300_000
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    assert limit(state) == 650_000


def test_a_refusal_names_the_call_and_the_rights_it_needs(gpu: Any) -> None:
    api, state = gpu
    data = json.loads(state.read_text())
    state.write_text(json.dumps({**data, "refuse": True}))
    with pytest.raises(NotPermitted, match=r"Insufficient Permissions.*sudo.*nvidia-smi -i 0 -pl 300"):
        power_limits.apply(api, Change(0, "power", 300))


CHILD = """
import pynvml, sys, time
from workbench.telemetry import power_limits
(only,) = power_limits.ranges(pynvml)
with power_limits.held(pynvml, only, sys.argv[1], consent=True) as hand:
    hand.set(float(sys.argv[2]))
    print("set", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("kind", "value"), [("power", 300), ("clock", 1500)])
def test_killed_in_the_middle_it_is_restored(gpu: Any, how: signal.Signals, kind: str, value: int) -> None:
    _, state = gpu
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), kind, str(value)],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ.copy())
    assert child.stdout is not None
    assert child.stdout.readline() == b"set\n"
    now = json.loads(state.read_text())
    assert (now["limit"] == 300_000) if kind == "power" else (now["clock"] == 1500)
    child.send_signal(how)
    child.wait(20)
    child.stdout.close()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        now = json.loads(state.read_text())
        if now["limit"] == 650_000 and now["clock"] is None:
            return
        time.sleep(0.05)
    pytest.fail(f"left changed: {now}")


def test_a_plan_stays_within_what_the_device_allows(gpu: Any) -> None:
    only = before(gpu[0])
    what = sweep.plan(only)
    assert (what.values[0], what.values[-1], len(what.values)) == (200, 700, 7)
    assert what.lines()[-1] == ("restore: nvmlDeviceSetPowerManagementLimit(gpu0, 650000 mW)  =  "
                                "nvidia-smi -i 0 -pl 650")
    assert sweep.plan(only, "clock", [1490]).values == (1500,)
    with pytest.raises(WorkbenchError, match="100 W is outside what gpu0 allows: 200 to 700 W"):
        sweep.plan(only, values=[100])


def test_a_sweep_finds_the_knee_and_leaves_the_device_as_it_was(gpu: Any) -> None:
    """A device whose speed saturates at 450 W: below it slower, above it only hotter."""
    api, state = gpu

    def workload() -> dict[str, Metric]:
        watts = limit(state) / 1000
        speed = min(1.0, (watts / 450) ** 0.5)
        return {"tok_per_s": Metric(name="tok_per_s", value=100 * speed),
                "j_per_token": Metric(name="j_per_token", value=(120 + 0.8 * watts) / (100 * speed),
                                      se=0.01, badges="throttled" if watts < 300 else "")}

    what = sweep.plan(before(api), values=[200, 300, 450, 600, 700], rounds=2)
    said = sweep.run(what, api, workload, consent=True, settle_s=0)
    assert said.knee == 450
    assert [p.rounds for p in said.points] == [2] * 5
    assert said.points[0].badges == ("throttled",)
    assert "450 W" in said.sentence
    assert json.loads(state.read_text())["log"][:5] == [700_000, 600_000, 450_000, 300_000, 200_000]
    assert limit(state) == 650_000


def test_estimated_energy_makes_no_knee() -> None:
    guess = sweep._point(300, "W", [{"j_per_token": Metric(
        name="j_per_token", value=1.0, quality="estimated", reason="estimated from a model")}])
    assert guess.j_per_token is None
    assert sweep.judge([guess, guess]).knee is None
