"""``workbench power status`` and ``workbench power idle``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from workbench.cli.common import console, print_json, text_table
from workbench.units import format_number, format_seconds


@click.command("status")
@click.option("--seconds", default=2.0, show_default=True, help="how long the sensors are watched")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def status(seconds: float, as_json: bool) -> None:
    """Every power sensor: its period, what it averages over, whether its two ways to joules agree."""
    from workbench.energy import status as energy

    found, known = energy.look(seconds), energy.idle_known()
    limits, why = energy.ranges()
    if as_json:
        print_json({"sensors": [{**asdict(s), "disagreement": s.disagreement} for s in found],
                    "idle": _idle_rows(known), "limits": [asdict(r) for r in limits],
                    "limits_reason": why})
        return
    rows = [[s.device, s.source, "yes" if s.available else "no", _time(s.period_s),
             _time(s.instant_period_s), _time(s.average_period_s), _time(s.window_s)] for s in found]
    console().print(text_table("Power sensors", ["device", "source", "readable", "counter every",
                                                 "instant every", "average every", "averages over"],
                               rows))
    for sensor in found:
        for line in sensor.words:
            click.echo(line)
    for row in _idle_rows(known):
        click.echo(f"{row['device']}: idle {row['watts']:.3g} ± {row['se_w']:.1g} W ({row['basis']})")
    for r in limits:
        click.echo(f"gpu{r.device} {r.name}: limit {format_number(r.power_w, 'W')}, allowed "
                   f"{format_number(r.least_w, 'W')} to {format_number(r.most_w, 'W')}")
    if why:
        click.echo(f"Limits: {why}.")


@click.command("idle")
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(1.5, 600),
              help="how long; nothing else should run meanwhile")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def idle(seconds: float, as_json: bool) -> None:
    """Measure idle power and remember it for the runs of this machine."""
    from workbench.energy import status as energy
    from workbench.errors import WorkbenchError

    with click.progressbar(length=100, label="measuring idle power", file=_stderr()) as bar:
        done = 0

        def progress(share: float) -> None:
            nonlocal done
            bar.update(int(100 * share) - done)
            done = int(100 * share)

        found = energy.measure_idle(seconds, progress)
    if not found:
        reasons = "; ".join(w for s in energy.look(0) for w in s.words)
        raise WorkbenchError(f"no idle power: no sensor of this machine can be read ({reasons})")
    if as_json:
        print_json(_idle_rows(found))
        return
    for row in _idle_rows(found):
        busy = row["others"]
        click.echo(f"{row['device']} ({row['source']}): {row['watts']:.4g} ± {row['se_w']:.1g} W idle"
                   + (f"; others worked meanwhile ({100 * busy:.0f} % of the load), so this is not idle: "
                      "stop them and measure again" if busy and busy > 0.1 else ""))


def _idle_rows(found: dict[tuple[str, str], Any]) -> list[dict[str, Any]]:
    return [{"device": d, "source": s, **asdict(i)} for (d, s), i in found.items()]


def _time(seconds: float | None) -> str:
    return format_seconds(seconds) if seconds else "–"


def _stderr() -> Any:
    import sys

    return sys.stderr
