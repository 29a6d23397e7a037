"""Money and carbon of joules: derived lines, from the user's grid and price.

    carbon = joules / 3.6e6 x g CO2 per kWh        cost = joules / 3.6e6 x price per kWh

Only what the sensors saw is counted: no cooling, no power supplies, no making of the hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Derived:
    """Per million tokens: ``kwh``, ``grams`` of CO2, ``cost``; each with one standard deviation.
    ``basis``: the grid and price that were used, in words."""

    kwh: float
    grams: float
    cost: float
    relative_se: float
    basis: str
    quality: str


def per_million(j_per_token: float, se: float | None, grid_g_per_kwh: float, price_per_kwh: float,
                quality: str = "measured") -> Derived:
    """What a million tokens cost at this rate. Pure arithmetic; the doubt is that of the joules."""
    kwh = j_per_token * 1e6 / J_PER_KWH
    return Derived(kwh, kwh * grid_g_per_kwh, kwh * price_per_kwh,
                   (se or 0.0) / j_per_token if j_per_token else 0.0,
                   f"{grid_g_per_kwh:g} g CO2/kWh, {price_per_kwh:g} per kWh", quality)


def sentence(d: Derived) -> str:
    """``A million tokens like these: 1.3 kWh, 0.57 kg CO2, 0.17 (at 445 g CO2/kWh, 0.13 per kWh).``"""
    label = "" if d.quality == "measured" else " (from an estimate, not a measurement)"
    return (f"A million tokens like these: {d.kwh:.3g} kWh, {_mass(d.grams)} CO2, {d.cost:.3g} in your "
            f"currency{label}, at {d.basis} (telemetry.grid_g_per_kwh, telemetry.price_per_kwh).")


def _mass(grams: float) -> str:
    return f"{grams / 1000:.3g} kg" if grams >= 1000 else f"{grams:.3g} g"
