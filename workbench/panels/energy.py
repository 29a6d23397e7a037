"""What a token of this run costs in joules, and how far that can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.analysis import energy as whole
from workbench.analysis import energy_cost, energy_phases, energy_sensors, energy_shares
from workbench.analysis.energy_series import Joules
from workbench.panels.base import Action, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run


def build(run: Run, baseline: Run | None = None) -> Content:
    """Sentences first: the figure, its doubt, what it leaves out; then phases, classes, layers."""
    events = list(run.events)
    phases = energy_phases.phases(events)
    end = max((t.t_s for t in events if type(t).__name__ == "Token"), default=0.0)
    total = whole.energy(events, 0.0, end)
    sensors = energy_sensors.sensors(events)
    words = [w for s in sensors for w in s.words]
    if total.joules is None and total.watts is None:
        return _nothing(run, total, phases, words)
    from workbench.charts import energy as charts

    classes, layers = energy_shares.by_class(events), energy_shares.by_layer(events)
    if total.quality != "measured":  # load follows the work too slowly to say more than a total
        phases, classes = [], []
    figures = [charts.energy_by_phase(phases)] if phases else []
    tables = [_phase_table(phases)] if phases else []
    if classes:
        figures.append(charts.energy_shares(classes))
        tables += [_share_table("By kernel class", classes), _share_table("By layer", layers)]
    tables.append(_device_table(total))
    return Content(sentences=[*_headline(run, total, phases), *_against(run, baseline), *words],
                   figures=figures, tables=tables, actions=_actions(run, total))


def _nothing(run: Run, total: whole.Energy, phases: list[energy_phases.PhaseEnergy], words: list[str]
             ) -> Content:
    if not phases:
        return Content(empty="No model work was recorded in this run, so there is nothing to divide "
                             "joules by.")
    said = (f"This run has no energy figure: {total.reason}. Nothing is guessed in its place. Run on a "
            "machine whose sensors can be read, or tick the estimate of CPU power, which is labelled "
            "and can be wrong by a factor of two.")
    more = [w for w in words if "no figure from" not in w]
    return Content(sentences=[said, *more], actions=_actions(run, total))


def _headline(run: Run, total: whole.Energy, phases: list[energy_phases.PhaseEnergy]) -> list[str]:
    said = []
    tokens = max(1, sum(type(e).__name__ == "Token" for e in run.events))
    if total.joules is None:
        said.append(f"No joules for this run: {total.reason}." + (
            f" Its mean power was {total.watts:.3g} W." if total.watts else ""))
    else:
        said += _figures(run, total, tokens)
    said += [f"Take care: {b}." for b in total.badges]
    prompt = next((p for p in phases if p.phase == "prefill" and p.per_token), None)
    rest = [p for p in phases if p.phase != "prefill" and p.joules is not None]
    if prompt and rest and prompt.per_token and rest[0].tokens:
        each = sum(p.joules or 0.0 for p in rest) / rest[0].tokens
        said.append(f"A prompt token cost {prompt.per_token.value:.3g} J and a generated one {each:.3g} "
                    f"J, {each / prompt.per_token.value:.3g} times as much.")
    return said


def _figures(run: Run, total: whole.Energy, tokens: int) -> list[str]:
    label = "Estimated, not measured: " if total.quality != "measured" else ""
    each = Joules(total.joules or 0.0, total.se or 0.0).times(1 / tokens)
    all_of_it = (f"{each.value:.3g} ± {each.se:.1g} J per new token in all" if not total.low_j else
                 f"{each.value:.3g} J per new token ({total.low_j / tokens:.2g} to "
                 f"{(total.high_j or 0) / tokens:.2g})")
    wanted = run.requested.telemetry
    said = []
    if total.net_j is not None:
        net = f"{total.net_j / tokens:.3g} ± {(total.net_se or 0) / tokens:.1g} J above idle power"
        pair = (net, all_of_it) if wanted.subtract_idle else (all_of_it, net)
        said.append(f"{label}{pair[0]}; {pair[1]} (idle: "
                    + ", ".join(f"{p.idle_w:.3g} W on {p.device}, {p.idle_basis}" for p in total.parts)
                    + ").")
    else:
        said.append(f"{label}{all_of_it}, idle power included: {total.net_reason}.")
    if total.estimated:
        said.append("Not in that figure, estimated only: " + ", ".join(
            f"{p.device} {p.joules.value / tokens:.2g} J per token" for p in total.estimated
            if p.joules) + ".")
    derived = energy_cost.per_million(each.value, each.se, wanted.grid_g_per_kwh, wanted.price_per_kwh,
                                      total.quality)
    return [*said, energy_cost.sentence(derived)]


def _against(run: Run, baseline: Run | None) -> list[str]:
    mine = run.metrics.get("j_per_token")
    theirs = baseline.metrics.get("j_per_token") if baseline is not None else None
    if baseline is None or not mine or not theirs or mine.value is None or not theirs.value:
        return []
    if mine.quality != theirs.quality:
        return [f"{baseline.label} is {theirs.quality} and this run {mine.quality}: the two are not "
                "compared."]
    doubt = ((mine.se or 0) ** 2 + (theirs.se or 0) ** 2) ** 0.5
    change = mine.value - theirs.value
    clear = "" if abs(change) > 2 * doubt else ", which is within the sensors' doubt"
    return [f"Against {baseline.label}: {100 * change / theirs.value:+.1f} % J per token{clear}."]


def _phase_table(phases: list[energy_phases.PhaseEnergy]) -> Table:
    return Table("By phase", ["phase", "s", "J", "± J", "W", "tokens", "J/token", "above idle J/token",
                              "how"],
                 [[p.phase, p.seconds, p.joules, p.se, p.watts, p.tokens,
                   p.per_token.value if p.per_token else None,
                   p.net_per_token.value if p.net_per_token else None, p.reason or p.how]
                  for p in phases])


def _share_table(title: str, shares: list[energy_shares.Share]) -> Table:
    return Table(f"{title} (by time; the range is idle to peak power)",
                 ["phase", "what", "% of phase", "J/token", "± J/token", "least", "most"],
                 [[s.phase, s.name, 100 * s.share, s.per_token, s.se / s.tokens if s.tokens else None,
                   s.low_j / s.tokens if s.tokens else None, s.high_j / s.tokens if s.tokens else None]
                  for s in shares])


def _device_table(total: whole.Energy) -> Table:
    return Table("By sensor", ["device", "source", "quality", "counter J", "integral of power J", "idle W",
                               "note"],
                 [[p.device, p.source, p.quality, p.counter_j, p.integral_j, p.idle_w,
                   "; ".join([*([p.reason] if p.reason else []), *p.badges])]
                  for p in (*total.parts, *total.estimated)])


def _actions(run: Run, total: whole.Energy) -> list[Action]:
    wanted = run.requested.telemetry
    found = []
    if total.joules is None and not total.parts and not wanted.estimate_cpu_power:
        found.append(Action("Estimate CPU power", {"telemetry.estimate_cpu_power": True},
                            "rated watts times load: labelled estimated, with its range"))
    if total.joules is not None and total.net_j is None and total.quality == "measured":
        found.append(Action("Measure idle power first", {"telemetry.idle_s": 5.0},
                            "waits five seconds before the run, with the model loaded"))
    if "too short" in " ".join(total.badges):
        longer = min(4 * run.requested.limits.max_new_tokens, 1_000_000)
        found.append(Action(f"Run {longer} tokens", {"limits.max_new_tokens": longer},
                            "a window of ten sensor periods gives a figure"))
    return found


PANEL = Panel(key="energy", title="Energy", question="What does a token cost in joules?", build=build,
              order=60)
