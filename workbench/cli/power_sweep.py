"""``workbench power sweep``: J/token over power caps or clocks."""

from __future__ import annotations

import sys
from typing import Any

import click

from workbench.cli.common import console, open_session, print_json, settings_from, settings_options
from workbench.errors import WorkbenchError


@click.command("sweep")
@click.option("--kind", type=click.Choice(["power", "clock"]), default="power", show_default=True,
              help="power limits (W) or locked SM clocks (MHz)")
@click.option("--gpu", default=0, show_default=True, help="which GPU")
@click.option("--values", metavar="A,B,...", help="limits to try; default: seven over the allowed range")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 50),
              help="times each limit is measured")
@click.option("--slowdown", default=0.05, show_default=True, type=click.FloatRange(0, 1),
              help="how much slower the knee may be")
@click.option("--prompt", default="Once upon a time", show_default=True, help="what the model continues")
@click.option("--yes-change-power-limit", "consent", is_flag=True,
              help="consent to change this GPU's limits; they are restored afterwards")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def sweep(kind: str, gpu: int, values: str | None, rounds: int, slowdown: float, prompt: str,
          consent: bool, as_json: bool, **options: Any) -> None:
    """Find the power cap or clock with the least J/token.

    Without --yes-change-power-limit (or the GPU's name typed when asked) nothing is changed: the dry
    run prints exactly what would be set and restored."""
    from workbench.energy import status
    from workbench.energy import sweep as sweeps

    settings = settings_from(options)
    ranges, why = status.ranges()
    chosen = next((r for r in ranges if r.device == gpu), None)
    if chosen is None:
        _nothing(kind, _numbers(values), why or f"there is no gpu{gpu}; there are "
                 + ", ".join(f"gpu{r.device}" for r in ranges), as_json)
        return
    what = sweeps.plan(chosen, kind, _numbers(values), rounds)
    if not consent and not _asked(chosen.name, gpu, what, as_json):
        _dry(what, as_json)
        return
    session = open_session(settings)
    try:
        result = sweeps.run(
            what, status.nvml(), lambda: _once(session, prompt), consent=True, slowdown=slowdown,
            say=lambda text: click.echo(text, err=True))
    finally:
        session.close()
    _print(result, as_json)


def _once(session: Any, prompt: str) -> dict[str, Any]:
    run = session.run(prompt, wait=True)
    if run.status != "done":
        raise WorkbenchError(f"a run of the sweep was {run.status}: {run.error}; the GPU's limit has been "
                             "restored")
    return dict(run.metrics)


def _numbers(text: str | None) -> list[float]:
    try:
        return [float(x) for x in (text or "").split(",") if x.strip()]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers like 300,400,500") from None


def _asked(name: str, gpu: int, what: Any, as_json: bool) -> bool:
    """Typed consent on a terminal; elsewhere there is none."""
    if as_json or not sys.stdin.isatty():
        return False
    click.echo(f"This changes the {what.kind} limit of gpu{gpu} ({name}) for everything that runs on it, "
               "and restores it afterwards:", err=True)
    for line in what.lines():
        click.echo(f"  {line}", err=True)
    return click.prompt(f"type gpu{gpu} to go on, anything else for a dry run", err=True,
                        default="", show_default=False).strip() == f"gpu{gpu}"


def _dry(what: Any, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": True, "device": what.before.name, "kind": what.kind,
                    "values": what.values, "calls": what.lines()})
        return
    click.echo(f"Dry run, nothing was changed. On gpu{what.before.device} ({what.before.name}), "
               f"{what.rounds} rounds of:")
    for line in what.lines():
        click.echo(f"  {line}")
    click.echo("To do it: add --yes-change-power-limit (needs administrator rights on the host).")


def _nothing(kind: str, values: list[float], why: str, as_json: bool) -> None:
    """A machine without a GPU: say so, and show the shape of the calls with the given values."""
    from workbench.energy.sweep import calls_for

    calls = calls_for(kind, values)
    if as_json:
        print_json({"dry_run": True, "reason": why, "calls": calls})
        return
    click.echo(f"Dry run, nothing was changed: {why}.")
    for call in calls:
        click.echo(f"  elsewhere this would call {call}")


def _print(result: Any, as_json: bool) -> None:
    if as_json:
        print_json(result.to_dict())
        return
    from workbench.cli.common import text_table

    def number(x: float | None) -> str:
        return "–" if x is None else f"{x:.4g}"

    unit = result.points[0].unit if result.points else ""
    console().print(text_table("J/token over the limit", [unit, "J/token", "±", "tok/s", "note"], [
        [f"{p.value:g}", number(p.j_per_token), number(p.se), number(p.tok_per_s),
         " · ".join([*p.badges, *([p.reason] if p.reason else [])])] for p in result.points]))
    click.echo(result.sentence)
