"""``workbench plan``: which matrix needs how many bits; the best mixture under a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import console, print_json, settings_from, text_table
from workbench.errors import SettingsError
from workbench.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from workbench.events import Event
    from workbench.sensitivity.errors import ErrorMap
    from workbench.sensitivity.plan import Plan

_METHODS = "int8 int4/group=32 int4/group=64 int4/group=128"


@click.command("plan")
@click.argument("model", default="bundled")
@click.option("--bits", type=float, help="budget: stored bits per weight, scales counted (default 4.5)")
@click.option("--ms", type=float, help="budget: milliseconds for one row through all matrices, measured here")
@click.option("--methods", default=_METHODS, show_default=True,
              help="schemes to choose from, separated by spaces; bf16 is always among them")
@click.option("--tokens", default=512, show_default=True, help="tokens of calibration text")
@click.option("--text", default="bundled", show_default=True, help="bundled, or a text file")
@click.option("--save", type=click.Path(path_type=Path), help="write the plan, for weights.plan=FILE")
@click.option("--errors", "show_errors", is_flag=True, help="also print the error of every matrix")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(model: str, bits: float | None, ms: float | None, methods: str, tokens: int, text: str,
            save: Path | None, show_errors: bool, as_json: bool) -> None:
    """Measure what every scheme costs every matrix of MODEL and choose the best mixture.

    The error map is kept: the second budget takes no measuring. A stopped one goes on where it was."""
    from workbench.sensitivity import plan as plans
    from workbench.sensitivity.measure import error_map

    if bits is not None and ms is not None:
        raise SettingsError("give one budget: --bits or --ms")
    settings = settings_from({"model": model})
    names = [str(plans.scheme(m)) for m in methods.split() if m != plans.EXACT]
    if not names:
        raise SettingsError("--methods needs at least one scheme beside bf16, like int4/group=64")
    with console(stderr=True).status("measuring") as status:
        tell = _teller(status)
        found = error_map(settings, tuple(names), tell, tokens=tokens, source=text)
        times = _times(found, methods, tell) if ms is not None else None
    plan = (plans.choose(found, time_s=ms / 1e3, times=times) if ms is not None
            else plans.choose(found, bits=4.5 if bits is None else bits))
    if save is not None:
        plans.save(plan, save)
    if as_json:
        print_json(_json(found, plan, show_errors, save))
    else:
        _print(found, plan, show_errors, save)


def _teller(status: Any) -> Callable[[Event], None]:
    from workbench.events import Progress

    def tell(event: Event) -> None:
        if isinstance(event, Progress) and event.total:
            status.update(f"{event.what} {event.done / event.total:.0%}  {event.detail}")
    return tell


def _times(found: ErrorMap, methods: str, tell: Callable[[Event], None]) -> dict[tuple[int, int, str], float]:
    from workbench.sensitivity.timing import times

    return times({(c.rows, c.columns) for c in found.cells}, [*methods.split(), "bf16"], tell)


def _json(found: ErrorMap, plan: Plan, cells: bool, save: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    from workbench.sensitivity import plan as plans

    return {"map": found.about, "uniform": {m: dict(zip(("bits", "kl"), plans.uniform(found, m), strict=True))
                                            for m in found.methods},
            "plan": asdict(plan), "saved": None if save is None else str(save),
            **({"cells": [asdict(c) for c in found.cells]} if cells else {})}


def _print(found: ErrorMap, plan: Plan, cells: bool, save: Path | None) -> None:
    from workbench.sensitivity import plan as plans

    out = console()
    rows = [[m, f"{b:.3f}", f"{k:.3e}"] for m in found.methods for b, k in [plans.uniform(found, m)]]
    rows.append(["the plan", f"{plan.bits:.3f}", f"{plan.kl:.3e}"])
    out.print(text_table("Decoder's matrices", ["scheme", "bits per weight", "KL (nats, estimated)"], rows))
    out.print(f"{format_bytes(plan.nbytes)}: {plan.describe()}", markup=False)
    if plan.time_s is not None:
        out.print(f"one row through every matrix: {format_seconds(plan.time_s)} (measured by shape)")
    if cells:
        out.print(text_table("Every matrix", ["matrix", "scheme", "KL", "output error", "weight error"], [
            [c.module, c.method, f"{c.kl:.2e}" if c.kl is not None else "", f"{c.output_error:.2e}",
             f"{c.weight_error:.2e}"] for c in found.cells], numbers=False))
    else:
        out.print(text_table("Not the commonest scheme", ["matrix", "scheme"], _unusual(plan), numbers=False))
    out.print(f"saved {save}; use it with --set weights=mixed --set weights.plan={save}" if save is not None
              else f"use it with --set weights=mixed --set weights.bits={plan.bits:.4g}", markup=False)


def _unusual(plan: Plan) -> list[list[str]]:
    counts = plan.counts()
    common = max(counts, key=lambda n: counts[n])
    return [[m, n] for m, n in plan.choice.items() if n != common]
