"""A real model's run beside a counter whose truth is known: joules go the whole way to the metrics.

The counter is a powercap tree that another process moves at 40 W, on the real clock."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import workbench as wb
from tests.telemetry.fake_power import fake_rapl
from workbench.panels import panel
from workbench.store import Store
from workbench.telemetry import power

WATTS = 40.0


#: Moves the counter, in a process of its own: a thread would wait for the engine's.
MOVER = """
import os, sys, time
folder, watts, began = sys.argv[1], float(sys.argv[2]), time.monotonic()
while True:
    with open(folder + "/new", "w") as file:
        file.write(str(int(1e6 * watts * (time.monotonic() - began))))
    os.replace(folder + "/new", folder + "/energy_uj")
    time.sleep(0.001)
"""


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = fake_rapl(tmp_path / "powercap")
    mover = subprocess.Popen([sys.executable, "-c", MOVER, str(folder), str(WATTS)])
    while (folder / "energy_uj").read_text().strip() in ("", "0"):
        time.sleep(0.01)
    monkeypatch.setattr(power, "RAPL", tmp_path / "powercap")
    yield folder
    mover.kill()
    mover.wait(10)


@pytest.mark.usefixtures("counter")
def test_a_runs_joules_reach_metrics_and_panel(tiny_config: Path, tmp_path: Path) -> None:
    with wb.open(tiny_config, weights="random", inline=True, store=Store(tmp_path / "runs"),
                 preset="off", max_new_tokens=1500, stop_at_eos=False) as session:
        run = session.run(["hello there"] * 8, wait=True, **{"telemetry.idle_s": 1.5})
        assert run.status == "done", run.error
        seconds, tokens = run.metrics["total_s"].value, run.metrics["new_tokens"].value
        assert seconds > 0.5, "too quick for a reading every tenth of a second; generate more"
        whole, net = run.metrics["j_per_token"], run.metrics["j_per_token_net"]
        assert whole.quality == "measured"
        assert whole.value == pytest.approx(WATTS * seconds / tokens, rel=0.08)
        assert run.metrics["mean_w"].value == pytest.approx(WATTS, rel=0.08)
        # The device draws 40 W without work too, so nothing is left above idle.
        assert net.value == pytest.approx(0, abs=0.1 * whole.value)
        said = panel("energy").content(run)
        assert "1.5 s before the run, model loaded" in " ".join(said.sentences)
        decode = said.tables[0].rows[-1]
        assert decode[0] == "decode"
        assert decode[2] == pytest.approx(WATTS * decode[1], rel=0.1), "joules of its seconds"
        assert run.metrics["decode_j_per_token"].value == pytest.approx(decode[6])


@pytest.mark.usefixtures("counter")
def test_idle_power_is_measured_before_the_clock_starts(tiny_config: Path, tmp_path: Path) -> None:
    with wb.open(tiny_config, weights="random", inline=True, store=Store(tmp_path / "runs"),
                 preset="off", max_new_tokens=8) as session:
        session.run("hello", wait=True)
        began = time.monotonic()
        run = session.run("hello", wait=True, **{"telemetry.idle_s": 2.0})
        assert time.monotonic() - began > 2.0
        assert run.metrics["ttft_s"].value < 1.0
