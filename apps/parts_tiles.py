"""The run's key figures, each beside the pinned baseline's."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.analysis.metrics import SPECS, format_value, remarks
from workbench.apps.markup import Markup, join, tag
from workbench.apps.offline import pn
from workbench.events import Metric

#: Shown always, in this order; the others only when there is a value.
ALWAYS = ("tok_per_s", "ttft_s", "tpot_s", "peak_ram_bytes", "j_per_token")
SOMETIMES = ("peak_gpu_bytes", "mean_accepted_length", "acceptance_rate", "perplexity", "kl_mean",
             "top1")
#: A difference below this share of the baseline is called equal.
_EQUAL = 0.01


class Tiles:
    """One row of figures."""

    def __init__(self) -> None:
        self.layout = pn.pane.HTML("", margin=0)

    def draw(self, metrics: Mapping[str, Metric], baseline: Mapping[str, Metric] | None,
             ended: bool = True) -> None:
        """While a run lasts, what is missing may still come and gives no reason."""
        names = [n for n in (*ALWAYS, *SOMETIMES)
                 if n in ALWAYS or ((m := metrics.get(n)) is not None and m.value is not None)]
        tiles = [tile(n, metrics.get(n), (baseline or {}).get(n), ended) for n in names]
        text = str(tag("div", join(tiles), cls="tilerow"))
        if self.layout.object != text:
            self.layout.object = text


def tile(name: str, metric: Metric | None, base: Metric | None, ended: bool = True) -> Markup:
    """One figure; what is missing says why on hover, an estimate says so in words."""
    spec = SPECS[name]
    value = format_value(metric) if metric is not None and metric.value is not None else "—"
    missing = ended and metric is not None and metric.value is None
    reason = metric.reason if metric is not None and missing else ""
    return tag("div", tag("div", spec.label, cls="k"), tag("div", value, cls="v"),
               tag("div", remarks(metric) or None,
                   change(name, metric, base) or tag("span", reason, cls="why"), cls="d"),
               cls="tile", title=f"{spec.help}{'; ' + reason if reason else ''}")


def change(name: str, metric: Metric | None, base: Metric | None) -> Markup | None:
    """``1.84× faster`` in the colour of its meaning, or None without a baseline."""
    if metric is None or base is None or metric.value is None or not base.value:
        return None
    ratio = metric.value / base.value
    if abs(ratio - 1) < _EQUAL:
        return tag("span", "as the baseline", cls="same")
    better = SPECS[name].better
    good = (ratio > 1) == (better == "higher") if better else None
    arrow = "▲" if ratio > 1 else "▼"
    text = f"{ratio:.2f}×" if 0.1 < ratio < 10 else f"{ratio:.3g}×"
    return tag("span", f"{arrow} {text} baseline",
               cls="same" if good is None else "up" if good else "down")
