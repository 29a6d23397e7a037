"""Time of a prompt and joules of a token from this machine's own matrix products, where
``workbench power model`` measured them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.forecast.estimate import Estimate
from workbench.machine import Machine
from workbench.shape import ModelShape

if TYPE_CHECKING:
    from workbench.settings import Settings


def prefill_seconds(settings: Settings, shape: ModelShape, machine: Machine, device: str, rows: int
                    ) -> float | None:
    """Seconds of the matrix products of one forward over ``rows`` token positions.

    None where nothing was measured for this device, dtype or number of threads, and for what the model
    does not cover: packed weights, experts."""
    from workbench.energy import gemm_store
    from workbench.energy.gemm import Product

    dtype = {"bf16": "bf16", "fp32": "fp32"}.get(settings.weights.name())
    if dtype is None or shape.experts:
        return None
    fitted = gemm_store.load(machine, device)
    if fitted is None or dtype not in fitted.time.physics:
        return None
    if device == "cpu" and settings.compute.threads not in (0, fitted.threads):
        return None
    # The head is computed for the last position only.
    layer = [Product(rows, r, c, dtype) for _, r, c in shape.linears()]
    head = Product(settings.limits.batch, shape.vocab, shape.hidden, dtype)
    seconds = fitted.time.seconds([*layer, head])
    return float(shape.layers * seconds[:-1].sum() + seconds[-1])


def joules_per_token(settings: Settings, shape: ModelShape, machine: Machine, device: str,
                     step_bytes: int, seconds: float, emitted: float, doubt: float) -> Estimate | None:
    """J/token as idle power x time + joules per FLOP and per byte, fitted to measured power.

    ``seconds`` per token, ``step_bytes`` moved per forward, ``emitted`` tokens per forward; None where no
    power was measured beside products on this device."""
    from workbench.energy import gemm_store

    fitted = gemm_store.load(machine, device)
    if fitted is None or fitted.power is None:
        return None
    power, batch = fitted.power, settings.limits.batch
    flops = 2.0 * shape.parameters * settings.decoding.rows() * batch
    work = (power.j_per_flop * flops + power.j_per_byte * step_bytes) / (emitted * batch)
    waiting = power.idle_w * seconds
    wrong = 1 + (power.error if power.error is not None else 0.3)
    return Estimate((work + waiting), work / wrong + waiting / doubt, work * wrong + waiting * doubt, "J",
                    f"{power.idle_w:.3g} W, {power.j_per_flop * 1e12:.3g} pJ/FLOP and "
                    f"{power.j_per_byte * 1e12:.3g} pJ/byte fitted to measured products, estimated")
