"""What the models of power say: products of this machine, and a row of servers that draw like this run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.panels.base import Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run

#: A row of this many devices for half an hour: about a fiftieth of a second per number of devices.
_SERVERS, _HOURS, _STEP_S = 40, 0.5, 0.5
_EXTRAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
#: A shorter recording than this repeats itself too often to stand for a server.
_LEAST_S = 10.0


def build(run: Run, baseline: Run | None = None) -> Content:
    """Products first (measured, with their held-out error), then the simulated row (recorded power only)."""
    products, row = _products(run), _row(run)
    if not products.tables and not row.tables:
        return Content(empty="There is no model of power to show. " + " ".join(
            [*products.sentences, *row.sentences]))
    return Content(sentences=[*products.sentences, *row.sentences],
                   figures=[*products.figures, *row.figures], tables=[*products.tables, *row.tables])


def _products(run: Run) -> Content:
    from workbench.charts.energy import predicted_against_measured
    from workbench.energy import gemm_store
    from workbench.machine import this_machine

    machine = this_machine()
    device = "cuda" if str(run.requested.compute.device).startswith("cuda") else "cpu"
    fitted = gemm_store.load(machine, device)
    if fitted is None:
        return Content(sentences=["No matrix products were measured here; `workbench power model --measure` "
                                  "takes about two minutes and also improves the forecast."])
    said = [f"{fitted.count} products were measured on this machine ({fitted.device}, {fitted.threads} "
            f"threads, {fitted.measured_on})" + (
                "." if _same_machine(run, machine) else "; this run is from another machine.")]
    best = next((e for e in fitted.errors if e["split"].startswith("shapes")
                 and e["method"] == "physics + forest"), None)
    if best:
        said.append(f"On shapes that it has not seen the model is off by {100 * best['median']:.1f} % in the "
                    f"median, by more than {100 * best['p90']:.0f} % for one in ten.")
    said.append(f"Power of products: {fitted.power_reason}." if fitted.power is None else
                f"Power of products: {fitted.power.idle_w:.3g} W + {1e12 * fitted.power.j_per_flop:.3g} "
                f"pJ/FLOP + {1e12 * fitted.power.j_per_byte:.3g} pJ/byte.")
    table = Table("Error of predicted times", ["split", "method", "median %", "mean %", "90 % below %"],
                  [[e["split"], e["method"], 100 * e["median"], 100 * e["mean"], 100 * e["p90"]]
                   for e in fitted.errors])
    pairs = [(1e3 * m, 1e3 * p) for m, p in fitted.pairs]
    return Content(sentences=said, figures=[predicted_against_measured(pairs, "ms")], tables=[table])


def _same_machine(run: Run, machine: Any) -> bool:
    return str((run.environment.get("machine") or {}).get("cpu", machine.cpu)) == machine.cpu


def _row(run: Run) -> Content:
    from workbench.charts.energy import row_power
    from workbench.energy import polca, power_trace, row

    if run.status in ("queued", "running"):
        return Content(sentences=["A row of servers is simulated when the run has ended."])
    try:
        trace = power_trace.from_run(run.events, run.label, _STEP_S)
    except WorkbenchError as error:
        return Content(sentences=[f"No row of servers: {error}."])
    if trace.seconds < _LEAST_S:
        return Content(sentences=[f"No row of servers: this run's power was recorded for {trace.seconds:.1f} "
                                  f"s, and {_LEAST_S:g} s are needed; generate more tokens."])
    planned = row.replay([trace], _SERVERS, hours=_HOURS)
    provisioned = float(planned.watts().max()) / 0.79
    found = polca.sweep(lambda n: row.replay([trace], n, hours=_HOURS, seed=n), _SERVERS, provisioned,
                        _EXTRAS)
    best = polca.fits(found)
    said = [f"Simulated, not measured: {_SERVERS} devices that draw like this run, each from a place of its "
            f"own, on {provisioned / 1000:.3g} kW; with clock limits by priority (POLCA) "
            + (f"{best.servers} fit, the low priority {100 * best.low_slowdown:.2f} % slower."
               if best else "no number of them stays within 2 % and 1 %."),
            f"The recording lasts {trace.seconds:.0f} s and repeats, so there is no day in it."]
    table = Table("Devices on the same power (simulated)",
                  ["devices", "peak %", "without limits %", "brakes", "low slower %", "high slower %"],
                  [[o.servers, 100 * o.peak_w / provisioned, 100 * o.peak_uncapped_w / provisioned, o.brakes,
                    100 * o.low_slowdown, 100 * o.high_slowdown] for o in found])
    shown = best or found[0]
    times = [trace.step_s * i for i in range(len(shown.watts))]
    return Content(sentences=said, tables=[table], figures=[row_power(
        times, list(shown.watts), provisioned, {"T1": 0.80, "T2": 0.89},
        f"Power of {shown.servers} devices (simulated)")])


PANEL = Panel(key="power_models", title="Power models",
              question="What would other work and more machines draw?", build=build, order=180)
