"""What a configuration will cost before it runs: bytes per tier, seconds and joules per token.

Pure arithmetic over settings, shape and machine: no torch, a few milliseconds. Bytes come from the
techniques' own accounting and equal what is allocated; times come from a roofline over this
machine's measured ceilings (or catalogue figures, labelled), corrected by what finished runs showed.
"""

from workbench.forecast.calibration import Calibration, learn
from workbench.forecast.estimate import Estimate, TierUse
from workbench.forecast.model import Forecast, forecast

__all__ = ["Calibration", "Estimate", "Forecast", "TierUse", "forecast", "learn"]
