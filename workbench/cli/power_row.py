"""``workbench power oversubscribe``: how many servers fit on a row's power."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from workbench.cli.common import console, find_run, print_json, text_table
from workbench.errors import WorkbenchError


@click.command("oversubscribe")
@click.option("--trace", "traces", multiple=True, type=click.Path(path_type=Path),
              help="CSV with seconds and watts of one server; may be repeated")
@click.option("--run", "runs", multiple=True, metavar="RUN", help="a recorded run with measured power")
@click.option("--modelled", is_flag=True, help="no recording: a diurnal load with published phase powers")
@click.option("--servers", default=40, show_default=True, type=click.IntRange(1, 2000),
              help="servers that the row was planned for")
@click.option("--row-watts", type=click.FloatRange(1), help="power of the row; default: the planned row's "
              "peak is 79 % of it, as published for inference")
@click.option("--extra", default="0,0.1,0.2,0.3,0.4,0.5", show_default=True, metavar="A,B,...",
              help="shares of additional servers to try")
@click.option("--low-share", default=0.5, show_default=True, type=click.FloatRange(0, 1),
              help="share of servers with low priority")
@click.option("--t1", default=0.80, show_default=True, help="above this share of the row's power the low "
              "priority is slowed")
@click.option("--t2", default=0.89, show_default=True, help="above this it is slowed more, then the high "
              "priority too")
@click.option("--delay", default=40.0, show_default=True, help="seconds until a clock limit acts")
@click.option("--hours", default=24.0, show_default=True, type=click.FloatRange(0.05, 24 * 60),
              help="simulated time")
@click.option("--step", default=1.0, show_default=True, type=click.FloatRange(0.05, 60),
              help="seconds per step")
@click.option("--seed", default=0, show_default=True, help="which place of the trace each server is at")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def oversubscribe(traces: tuple[Path, ...], runs: tuple[str, ...], modelled: bool, servers: int,
                  row_watts: float | None, extra: str, low_share: float, t1: float, t2: float, delay: float,
                  hours: float, step: float, seed: int, as_json: bool) -> None:
    """Simulate a row with more servers than its power was planned for (POLCA)."""
    from workbench.energy import polca, power_trace, row

    if bool(traces or runs) == modelled:
        raise WorkbenchError("give recorded power with --trace FILE.csv or --run RUN, or ask for a modelled "
                             "load with --modelled, not both")
    recorded = [t for path in traces for t in power_trace.read_csv(path, step)]
    recorded += [power_trace.from_run(found.events, found.label, step)
                 for name in runs for found in [find_run(name)]]

    def make(count: int) -> Any:
        if modelled:
            return row.modelled(count, low_share=low_share, hours=hours, step_s=step, seed=seed + count)
        return row.replay(recorded, count, low_share, hours, seed + count)

    policy = polca.Policy(t1=t1, t2=t2, delay_s=delay)
    planned = make(servers)
    provisioned = row_watts or float(planned.watts().max()) / 0.79
    shares = _shares(extra)
    with click.progressbar(length=len(shares), label="simulating", file=_stderr()) as bar:
        outcomes = polca.sweep(make, servers, provisioned, shares, policy,
                               progress=lambda done: bar.update(1))
    best = polca.fits(outcomes)
    rise = polca.largest_rise(planned.watts(), provisioned, delay, step)
    if as_json:
        print_json({"row_w": provisioned, "largest_rise": rise, "t2_that_fits": 1 - rise,
                    "basis": planned.basis, "fits": best.to_dict() if best else None,
                    "outcomes": [o.to_dict() for o in outcomes]})
        return
    _print(outcomes, best, provisioned, rise, delay, t2)


def _shares(text: str) -> list[float]:
    try:
        found = sorted({float(x) for x in text.split(",") if x.strip()})
    except ValueError:
        found = []
    if not found or found[0] < 0 or found[-1] > 5:
        raise click.BadParameter(f"--extra {text!r} is not a list of shares like 0,0.1,0.3")
    return found


def _print(outcomes: list[Any], best: Any, provisioned: float, rise: float, delay: float, t2: float) -> None:
    def percent(x: float) -> str:
        return f"{100 * x:.2f} %"

    console().print(text_table(
        f"Simulated row of {provisioned / 1000:.1f} kW ({outcomes[0].basis})",
        ["servers", "extra", "peak", "without limits", "brakes", "low slower", "high slower", "limited"],
        [[str(o.servers), f"{100 * o.extra:.0f} %", percent(o.peak_w / provisioned),
          percent(o.peak_uncapped_w / provisioned), str(o.brakes), percent(o.low_slowdown),
          percent(o.high_slowdown), percent(o.capped_share)] for o in outcomes]))
    click.echo(f"The row's power rises by at most {percent(rise)} within {delay:g} s, so T2 may be up to "
               f"{percent(1 - rise)}; it is {percent(t2)}.")
    if best is None:
        click.echo("No number of servers keeps within 2 % (low) and 1 % (high) without a brake.")
    else:
        click.echo(f"{best.servers} servers fit within 2 % (low) and 1 % (high): no brake, low priority "
                   f"{percent(best.low_slowdown)} slower, high priority {percent(best.high_slowdown)}.")


def _stderr() -> Any:
    import sys

    return sys.stderr
