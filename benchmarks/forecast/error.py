"""How wrong the forecast is: from the catalogue, from measured ceilings, and after learning.

    python benchmarks/forecast/error.py [--rounds 3] [--tokens 96]

Measures this machine's ceilings into a home of its own, then runs the bundled model in several
configurations, round after round. Before each run the forecast is asked, afterwards its error is
noted: round 1 has seen no run of this configuration, later rounds have. Results go to
``results.json`` beside this file, with the machine, the load and every single error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "bf16": {}, "int8": {"weights": "int8"}, "int4": {"weights": "int4"}, "fp32": {"weights": "fp32"},
    "int8 KV": {"kv": "int8"}, "draft": {"draft": "auto"}, "lookup": {"decoding": "prompt_lookup"},
    "int4 + draft": {"weights": "int4", "draft": "auto"}, "disk": {"tiers": "stream"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["WORKBENCH_HOME"] = home
        results = measure(arguments.rounds, arguments.tokens)
    path = Path(__file__).with_name("results.json")
    path.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


def measure(rounds: int, tokens: int) -> dict[str, Any]:
    """Every error of every run, and what they were measured on."""
    import workbench as wb
    from workbench.forecast import forecast
    from workbench.session import draft_shape_of

    rows = []
    with wb.open(max_new_tokens=tokens, preset="off", power=False) as session:
        session.measure_machine(wait=True)
        session.refresh_machine()
        bare = dataclasses.replace(session.machine, ceilings={})
        session.run(wait=True)  # the process's first run warms what all later ones share
        (Path(os.environ["WORKBENCH_HOME"]) / "calibration").joinpath(
            f"{session.machine.fingerprint}.json").unlink(missing_ok=True)
        for turn in range(1, rounds + 1):
            for name, changes in CONFIGURATIONS.items():
                settings = session.settings.with_(changes)
                before = session.forecast(settings)
                catalogue = forecast(settings, session.shape, bare,
                                     draft_shape=draft_shape_of(settings))
                run = session.run(wait=True, settings=settings)
                rows.append({
                    "round": turn, "configuration": name, "load_average": os.getloadavg()[0],
                    "basis": before.tpot_s.basis,
                    "forecast_tpot_s": before.tpot_s.value,
                    "measured_tpot_s": run.metrics["tpot_s"].value,
                    "inside": before.tpot_s.low <= run.metrics["tpot_s"].value <= before.tpot_s.high,
                    "catalogue_error": catalogue.error_of(run.metrics)["tpot_s"],
                    "error": before.error_of(run.metrics)["tpot_s"],
                    "ttft_error": before.error_of(run.metrics)["ttft_s"]})
        machine = session.machine
    return {"command": "python benchmarks/forecast/error.py", "cpu": machine.cpu,
            "cores": machine.cores, "gpus": [g.name for g in machine.gpus],
            "measured_on": machine.measured_on, "load_average": os.getloadavg()[0],
            "new_tokens": tokens, "ceilings": machine.ceilings, "runs": rows}


def show(results: dict[str, Any]) -> None:
    """Median of |measured / forecast - 1| and the share of runs inside the stated range, by round."""
    for turn in sorted({r["round"] for r in results["runs"]}):
        rows = [r for r in results["runs"] if r["round"] == turn]
        median = statistics.median(abs(r["error"]) for r in rows)
        bare = statistics.median(abs(r["catalogue_error"]) for r in rows)
        inside = sum(r["inside"] for r in rows)
        print(f"round {turn}: median error of time per token {median:.0%} (catalogue alone "
              f"{bare:.0%}); {inside} of {len(rows)} runs inside the stated range")


if __name__ == "__main__":
    main()
