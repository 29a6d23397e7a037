"""``workbench power model``: matrix products of this machine, their time and power as a model."""

from __future__ import annotations

from typing import Any

import click

from workbench.cli.common import console, print_json, text_table
from workbench.errors import WorkbenchError


@click.command("model")
@click.option("--measure", is_flag=True, help="measure this machine again")
@click.option("--seconds", default=90.0, show_default=True, type=click.FloatRange(5, 3600),
              help="time limit of measuring")
@click.option("--shapes", default=200, show_default=True, type=click.IntRange(20, 5000),
              help="how many shapes are tried")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
@click.option("--product", "products", multiple=True, metavar="M,N,K[,DTYPE]",
              help="predict this product; may be repeated")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def model(measure: bool, seconds: float, shapes: int, device: str, products: tuple[str, ...],
          as_json: bool) -> None:
    """Fit time (and power, where a sensor exists) of matrix products; held-out error first."""
    import os

    # As the engine's worker: threads that wait asleep, which costs small products some microseconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from workbench.energy import gemm_fit, gemm_store
    from workbench.machine import this_machine

    wanted = [_product(text) for text in products]
    machine = this_machine()
    fitted = None if measure else gemm_store.load(machine, device)
    if fitted is None:
        if not measure and products:
            raise WorkbenchError("no products were measured on this machine yet; run `workbench power "
                                 "model --measure` first")
        with console(stderr=True).status("measuring products") as line:
            fitted = gemm_fit.measure_and_fit(machine, device, shapes, seconds,
                                              lambda text: line.update(text))
    answers = gemm_fit.predict(fitted, wanted)
    if as_json:
        print_json({"errors": fitted.errors, "count": fitted.count, "device": fitted.device,
                    "threads": fitted.threads, "measured_on": fitted.measured_on,
                    "band": fitted.time.band, "power": vars(fitted.power) if fitted.power else None,
                    "power_reason": fitted.power_reason, "predictions": answers,
                    "physics": {d: p.constants() for d, p in fitted.time.physics.items()}})
        return
    _print(fitted, answers)


def _product(text: str) -> Any:
    from workbench.energy.gemm import ITEM_BYTES, Product

    parts = text.split(",")
    dtype = parts[3].strip() if len(parts) == 4 else "bf16"
    try:
        m, n, k = (int(x) for x in parts[:3])
        if len(parts) > 4 or min(m, n, k) < 1 or dtype not in ITEM_BYTES:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{text!r} is not M,N,K or M,N,K,DTYPE with whole numbers from 1 and a "
                                 f"dtype of {', '.join(ITEM_BYTES)}") from None
    return Product(m, n, k, dtype)


def _print(fitted: Any, answers: list[dict[str, Any]]) -> None:
    console().print(text_table(
        f"Error of {fitted.count} measured products ({fitted.device}, {fitted.threads} threads, "
        f"{fitted.measured_on})", ["split", "method", "median", "mean", "90 %", "R² of log time"],
        [[e["split"], e["method"], *(f"{100 * e[c]:.1f} %" for c in ("median", "mean", "p90")),
          f"{e['r2']:.3f}"] for e in fitted.errors]))
    for dtype, physics in fitted.time.physics.items():
        c = physics.constants()
        click.echo(f"{dtype}, fitted: {c['flops'] / 1e9:.0f} GFLOP/s, {c['bytes_per_s'] / 1e9:.1f} GB/s, "
                   f"{1e6 * c['overhead_s']:.1f} µs per product, half of the rate at {c['half_m']:.0f} rows")
    if fitted.power is None:
        click.echo(f"Power: {fitted.power_reason}.")
    else:
        p = fitted.power
        doubt = "" if p.error is None else f"; {100 * p.error:.1f} % median error on held-out shapes"
        click.echo(f"Power: {p.idle_w:.3g} W + {p.j_per_flop * 1e12:.3g} pJ/FLOP + "
                   f"{p.j_per_byte * 1e12:.3g} pJ/byte{doubt}")
    for a in answers:
        click.echo(f"{a['m']} x {a['k']} by {a['k']} x {a['n']} {a['dtype']}: {1e3 * a['seconds']:.4g} ms "
                   f"({1e3 * a['low_s']:.3g} to {1e3 * a['high_s']:.3g})"
                   + ("" if a["joules"] is None else f", {a['joules']:.3g} J"))
