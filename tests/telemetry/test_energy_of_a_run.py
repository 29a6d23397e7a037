"""A real model's run beside a counter whose truth is known: joules go the whole way to the metrics.

The counter is a powercap tree that a thread of the test moves at 40 W, on the real clock."""

from __future__ import annotations

import threading
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


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = fake_rapl(tmp_path / "powercap")
    stop = threading.Event()

    def work() -> None:
        began = time.monotonic()
        while not stop.wait(0.002):
            (folder / "new").write_text(str(int(1e6 * WATTS * (time.monotonic() - began))))
            (folder / "new").replace(folder / "energy_uj")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    monkeypatch.setattr(power, "RAPL", tmp_path / "powercap")
    yield folder
    stop.set()
    thread.join()


@pytest.mark.usefixtures("counter")
def test_a_runs_joules_reach_metrics_and_panel(tiny_config: Path, tmp_path: Path) -> None:
    with wb.open(tiny_config, weights="random", inline=True, store=Store(tmp_path / "runs"),
                 preset="off", max_new_tokens=200, stop_at_eos=False) as session:
        run = session.run("hello there", wait=True, **{"telemetry.idle_s": 1.5})
        assert run.status == "done", run.error
        seconds = run.metrics["total_s"].value
        whole, net = run.metrics["j_per_token"], run.metrics["j_per_token_net"]
        assert whole.quality == "measured"
        assert whole.value == pytest.approx(WATTS * seconds / 200, rel=0.08)
        assert abs(whole.value - WATTS * seconds / 200) < 3 * whole.se + 0.02 * whole.value
        assert run.metrics["mean_w"].value == pytest.approx(WATTS, rel=0.08)
        # The device draws 40 W without work too, so nothing is left above idle.
        assert net.value == pytest.approx(0, abs=0.1 * whole.value)
        prompt, rest = run.metrics["prefill_j_per_token"], run.metrics["decode_j_per_token"]
        assert prompt.value is not None
        assert rest.value == pytest.approx(whole.value, rel=0.25)
        said = panel("energy").content(run)
        assert "1.5 s before the run, model loaded" in " ".join(said.sentences)
        assert said.tables[0].rows[-1][0] == "decode"


@pytest.mark.usefixtures("counter")
def test_idle_power_is_measured_before_the_clock_starts(tiny_config: Path, tmp_path: Path) -> None:
    with wb.open(tiny_config, weights="random", inline=True, store=Store(tmp_path / "runs"),
                 preset="off", max_new_tokens=8) as session:
        session.run("hello", wait=True)
        began = time.monotonic()
        run = session.run("hello", wait=True, **{"telemetry.idle_s": 2.0})
        assert time.monotonic() - began > 2.0
        assert run.metrics["ttft_s"].value < 1.0
