"""A run's summary figures from its events. What cannot be known is None with the reason, never zero.

Definitions (one clock, zero when the prompt is tokenized and the model loaded):
TTFT = first token's time. TPOT = (last - first) / (tokens - 1), per sequence, then the mean.
ITL = gaps between stream events; under speculation a burst of tokens is one event, so ITL and TPOT
differ. tok/s = tokens after each sequence's first, per second between first and last token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from workbench import events as ev
from workbench.analysis.energy import Energy, energy
from workbench.analysis.energy_badges import BETWEEN
from workbench.analysis.energy_phases import PhaseEnergy, phases
from workbench.analysis.frames import same_burst


@dataclass(frozen=True)
class Spec:
    """How a metric is named and judged. ``better``: ``lower``, ``higher`` or empty."""

    label: str
    unit: str
    better: str
    help: str


SPECS: dict[str, Spec] = {
    "ttft_s": Spec("TTFT", "s", "lower", "time to the first token"),
    "tpot_s": Spec("TPOT", "s", "lower", "mean time per output token, without the first"),
    "itl_p50_s": Spec("ITL p50", "s", "lower", "median gap between stream events"),
    "itl_p90_s": Spec("ITL p90", "s", "lower", "90th percentile of the gaps"),
    "itl_p99_s": Spec("ITL p99", "s", "lower", "99th percentile of the gaps"),
    "tok_per_s": Spec("speed", "tok/s", "higher", "tokens per second while decoding"),
    "prefill_tok_per_s": Spec("prefill", "tok/s", "higher", "prompt tokens per second"),
    "new_tokens": Spec("new tokens", "tokens", "", "tokens generated, all sequences"),
    "total_s": Spec("total", "s", "lower", "from the start of the run to its last token"),
    "mean_accepted_length": Spec("accepted length", "tokens", "higher",
                                 "tokens per forward of the target; plain decoding is 1.00"),
    "acceptance_rate": Spec("acceptance", "fraction", "higher", "accepted / drafted tokens"),
    "peak_gpu_bytes": Spec("peak GPU", "bytes", "lower", "most bytes held on the GPU"),
    "peak_ram_bytes": Spec("peak RAM", "bytes", "lower", "most bytes held in RAM"),
    "peak_disk_bytes": Spec("disk", "bytes", "lower", "most bytes of weights left on disk"),
    "j_per_token": Spec("energy", "J/token", "lower", "energy of the run / new tokens"),
    "j_per_token_net": Spec("energy above idle", "J/token", "lower",
                            "energy of the run less idle power / new tokens"),
    "prefill_j_per_token": Spec("prefill energy", "J/token", "lower",
                                "energy of the prompt phase / prompt tokens"),
    "decode_j_per_token": Spec("decode energy", "J/token", "lower",
                               "energy of decoding, drafts and verification / tokens after the first"),
    "mean_w": Spec("power", "W", "lower", "mean power during the run"),
    "perplexity": Spec("perplexity", "", "lower", "on the evaluation text"),
    "kl_mean": Spec("KL mean", "nats", "lower", "divergence from the untouched model"),
    "kl_median": Spec("KL median", "nats", "lower", "divergence from the untouched model"),
    "kl_p99": Spec("KL p99", "nats", "lower", "divergence, 99th percentile"),
    "top1": Spec("top-1 agreement", "fraction", "higher", "same likeliest token as the untouched model"),
    "capture_overhead": Spec("capture cost", "fraction", "lower",
                             "share of the run that kernel capture took"),
    "forward_p50_s": Spec("forward p50", "s", "lower", "median time of a profiled module's forward"),
    "forward_p99_s": Spec("forward p99", "s", "lower", "99th percentile of a profiled module's forward"),
    "items_per_s": Spec("items", "items/s", "higher", "batch items through a profiled module per second"),
}
QUALITY = ("perplexity", "kl_mean", "kl_median", "kl_p99", "top1")


def summarize(events: Iterable[ev.Event]) -> dict[str, ev.Metric]:
    """Every metric of :data:`SPECS`, for a whole, cancelled, failed or still running run."""
    events = list(events)
    found: dict[str, ev.Metric] = {}
    for part in (_times(events), _speculation(events), _memory(events), _energy(events),
                 _quality(events), _capture(events), _forwards(events)):
        found |= {m.name: m for m in part}
    _badge_disturbed(events, found)
    return {name: found[name] for name in SPECS}


#: Metrics of speed, which a neighbour's load makes worse.
_SPEED = ("tok_per_s", "forward_p50_s", "items_per_s")


def _badge_disturbed(events: list[ev.Event], found: dict[str, ev.Metric]) -> None:
    """A run that a neighbour disturbed says so beside its speed."""
    if not any(isinstance(e, ev.Interference) for e in events):
        return
    from workbench.analysis.interference import disturbance

    badge = disturbance(events).short
    for name in _SPEED:
        m = found[name]
        if badge and m.value is not None:
            found[name] = msgspec.structs.replace(
                m, badges=BETWEEN.join(b for b in (m.badges, badge) if b))


def metric(name: str, value: float | None, reason: str = "", quality: str = "measured",
           se: float | None = None, badges: str = "") -> ev.Metric:
    """A metric with its unit; a value that is not finite becomes None."""
    if value is not None and not math.isfinite(value):
        value, reason = None, reason or f"the value is {value}"
    return ev.Metric(name=name, value=value, unit=SPECS[name].unit, quality=quality,
                     reason=reason, se=se, badges=badges)


def percentile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between closest ranks, as numpy's default. ``q`` in 0..1."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def streams(events: Iterable[ev.Event]) -> dict[int, list[ev.Token]]:
    """sequence -> its tokens, in order."""
    found: dict[int, list[ev.Token]] = {}
    for e in events:
        if isinstance(e, ev.Token):
            found.setdefault(e.sequence, []).append(e)
    return found


def gaps(tokens: Sequence[ev.Token]) -> list[float]:
    """Seconds between the stream events of one sequence."""
    found: list[float] = []
    for i, token in enumerate(tokens):
        if i == 0:
            step, t = token.step, token.t_s
        elif not same_burst(step, t, token.step, token.t_s):
            found.append(token.t_s - t)
            step, t = token.step, token.t_s
    return found


def _times(events: list[ev.Event]) -> list[ev.Metric]:
    per_sequence = streams(events)
    every = [t for s in per_sequence.values() for t in s]
    if not every:
        why = _no_tokens(events)
        names = ("ttft_s", "tpot_s", "itl_p50_s", "itl_p90_s", "itl_p99_s", "tok_per_s", "total_s")
        return [metric(n, None, why) for n in names] + [
            metric("new_tokens", 0), _prefill(events)]
    first, last = min(t.t_s for t in every), max(t.t_s for t in every)
    after = len(every) - len(per_sequence)
    tpots = [(s[-1].t_s - s[0].t_s) / (len(s) - 1) for s in per_sequence.values() if len(s) > 1]
    itl = [g for s in per_sequence.values() for g in gaps(s)]
    one = "only one token was generated"
    burst = one if not tpots else "all tokens arrived at once"
    return [
        metric("ttft_s", first),
        metric("tpot_s", sum(tpots) / len(tpots) if tpots else None, "" if tpots else one),
        *(metric(f"itl_p{q}_s", percentile(itl, q / 100) if itl else None, "" if itl else burst)
          for q in (50, 90, 99)),
        metric("tok_per_s", after / (last - first) if last > first else None,
               "" if last > first else burst),
        metric("total_s", last),
        metric("new_tokens", len(every)), _prefill(events)]


def _no_tokens(events: list[ev.Event]) -> str:
    if any(isinstance(e, ev.Phase) and e.phase == "forward" for e in events):
        return "a module was profiled, which makes no tokens"
    for e in reversed(events):
        if isinstance(e, ev.RunEnded) and e.status != "done":
            return f"no token was generated: the run was {e.status}"
    return "no token was generated"


def _prefill(events: list[ev.Event]) -> ev.Metric:
    intervals = [e for e in events if isinstance(e, ev.Phase) and e.phase == "prefill"]
    seconds = sum(e.end_s - e.start_s for e in intervals)
    rows = sum(e.rows for e in intervals) or sum(
        e.prompt_tokens for e in events if isinstance(e, ev.RunStarted))
    if seconds <= 0 or not rows:
        return metric("prefill_tok_per_s", None, "the prompt was not processed")
    return metric("prefill_tok_per_s", rows / seconds)


def _speculation(events: list[ev.Event]) -> list[ev.Metric]:
    drafts = [e for e in events if isinstance(e, ev.Draft)]
    drafted = sum(e.drafted for e in drafts)
    rate = metric("acceptance_rate", sum(e.accepted for e in drafts) / drafted) if drafted else (
        metric("acceptance_rate", None, "nothing was drafted"))
    verified = {e.step for e in drafts}
    plain = sum(e.phase == "decode" and e.step not in verified
                for e in events if isinstance(e, ev.Phase))
    if not drafts:
        some = plain or any(isinstance(e, ev.Token) for e in events)
        return [rate, metric("mean_accepted_length", 1.0 if some else None,
                             "plain decoding" if some else "no token was generated")]
    # A step in which the drafter had no proposal is a plain forward: one token.
    length = (sum(e.emitted for e in drafts) + plain) / (len(drafts) + plain)
    return [rate, metric("mean_accepted_length", length)]


def _memory(events: list[ev.Event]) -> list[ev.Metric]:
    peaks: dict[str, int] = {}
    for e in events:
        if isinstance(e, ev.Memory):
            peaks[e.tier] = max(peaks.get(e.tier, 0), e.total_bytes)
    why = "memory was not sampled"
    absent = {"gpu": "nothing was placed on a GPU", "ram": why,
              "disk": "nothing was streamed from disk"}
    return [metric(f"peak_{tier}_bytes", peaks.get(tier),
                   "" if tier in peaks else absent[tier] if peaks else why)
            for tier in ("gpu", "ram", "disk")]


def _energy(events: list[ev.Event]) -> list[ev.Metric]:
    names = ("j_per_token", "j_per_token_net", "prefill_j_per_token", "decode_j_per_token", "mean_w")
    tokens = [e for e in events if isinstance(e, ev.Token)]
    if not tokens:
        return [metric(n, None, "no token was generated") for n in names]
    got = energy(events, 0.0, max(t.t_s for t in tokens))
    badges, n = BETWEEN.join(got.badges), len(tokens)
    if got.joules is None:
        return [*(metric(m, None, got.reason, got.quality, badges=badges) for m in names[:-1]),
                metric("mean_w", got.watts, got.reason, got.quality, badges=badges)]
    if got.quality != "measured":
        return _estimated(got, n, badges)
    watts_se = (got.se or 0.0) / got.window_s if got.window_s > 0 else None
    return [
        metric("j_per_token", got.joules / n, got.reason, got.quality, (got.se or 0.0) / n, badges),
        metric("j_per_token_net", None if got.net_j is None else got.net_j / n,
               got.net_reason or got.reason, got.quality,
               None if got.net_se is None else got.net_se / n, badges),
        *_phase_energy(events, badges),
        metric("mean_w", got.watts, got.reason, got.quality, watts_se, badges)]


def _estimated(got: Energy, tokens: int, badges: str) -> list[ev.Metric]:
    """A model's figure has a range, not an error bar, and is not divided by phase."""
    why = "an estimate from load is not divided further; it needs a sensor"
    spread = "" if got.low_j is None or got.high_j is None else (
        f"; between {got.low_j / tokens:.2g} and {got.high_j / tokens:.2g} J per token")
    said = "estimated from a model of the machine, not measured" + spread
    return [
        metric("j_per_token", (got.joules or 0.0) / tokens, said, got.quality, badges=badges),
        *(metric(n, None, why, got.quality)
          for n in ("j_per_token_net", "prefill_j_per_token", "decode_j_per_token")),
        metric("mean_w", got.watts, said, got.quality, badges=badges)]


def _phase_energy(events: list[ev.Event], badges: str) -> list[ev.Metric]:
    found = phases(events)
    prompt = [p for p in found if p.phase == "prefill"]
    rest = [p for p in found if p.phase != "prefill"]
    return [_per_token("prefill_j_per_token", prompt, badges),
            _per_token("decode_j_per_token", rest, badges)]


def _per_token(name: str, found: list[PhaseEnergy], badges: str) -> ev.Metric:
    if not found or not found[0].tokens:
        return metric(name, None, "the run had no such phase")
    missing = [p.reason for p in found if p.joules is None]
    if missing:
        return metric(name, None, missing[0], badges=badges)
    joules, tokens = sum(p.joules or 0.0 for p in found), found[0].tokens
    return metric(name, joules / tokens, "", "measured",
                  math.hypot(*(p.se or 0.0 for p in found)) / tokens, badges)


def _quality(events: list[ev.Event]) -> list[ev.Metric]:
    last = {e.metric: e for e in events if isinstance(e, ev.Quality)}
    found = []
    for name in QUALITY:
        e = last.get(name)
        if e is None:
            why = "not part of this evaluation" if last else "quality was not measured (quality=quick)"
            found.append(metric(name, None, why))
        elif not e.done:
            found.append(metric(name, None, "the evaluation did not finish"))
        else:
            found.append(metric(name, e.value, se=e.se))
    return found


def _capture(events: list[ev.Event]) -> list[ev.Metric]:
    windows = [e for e in events if isinstance(e, ev.KernelWindow)]
    ends = [e.t_s for e in events if isinstance(e, ev.Token)]
    ends += [e.end_s for e in events if isinstance(e, ev.Phase) and e.phase != "load"]
    if not windows or not ends or max(ends) <= 0:
        return [metric("capture_overhead", None, "kernels were not captured")]
    return [metric("capture_overhead", sum(w.overhead_s for w in windows) / max(ends))]


def _forwards(events: list[ev.Event]) -> list[ev.Metric]:
    """Timed forwards of a module; those under the profiler are not among them."""
    timed = [e for e in events if isinstance(e, ev.Phase) and e.phase == "forward"]
    seconds = [e.end_s - e.start_s for e in timed]
    if not seconds or sum(seconds) <= 0:
        return [metric(n, None, "no module was profiled in this run")
                for n in ("forward_p50_s", "forward_p99_s", "items_per_s")]
    return [metric("forward_p50_s", percentile(seconds, 0.5)),
            metric("forward_p99_s", percentile(seconds, 0.99)),
            metric("items_per_s", sum(e.rows for e in timed) / sum(seconds))]


def format_metric(m: ev.Metric | None) -> str:
    """``'12.3 ms'``, ``'1.5 GiB'``, ``'97.2 %'``, ``'8.21 ± 0.13'`` or ``'n/a'``; estimates and badges
    are said beside the number."""
    if m is None or m.value is None:
        return "n/a"
    text = f"{format_value(m)} (estimated)" if m.quality == "estimated" else format_value(m)
    return f"{text} [{m.badges}]" if m.badges else text


def format_value(m: ev.Metric | None) -> str:
    """The same without what is said beside it, for views that have a line of their own for it."""
    if m is None or m.value is None:
        return "n/a"
    text = _value_text(m)
    if m.se and m.unit != "bytes":
        number, _, unit = text.partition(" ")
        text = f"{number} ± {_spread(m, unit)} {unit}".rstrip()
    return text


def remarks(m: ev.Metric | None) -> str:
    """``estimated`` and the badges, separated by `` · ``; empty without any."""
    said = (m.quality == "estimated" and "estimated", m.badges) if m and m.value is not None else ()
    return " · ".join(s for s in said if s)


def _value_text(m: ev.Metric) -> str:
    from workbench import units

    value = float(m.value or 0.0)
    if m.unit == "s":
        return units.format_seconds(value)
    if m.unit == "bytes":
        return units.format_bytes(value)
    if m.unit == "fraction":
        return f"{100 * value:.3g} %"
    if m.name == "mean_accepted_length":
        return f"{value:.2f}"
    if m.name == "new_tokens":
        return f"{value:,.0f}"
    return units.format_number(value, "" if m.unit in ("tokens", "nats") else m.unit)


def _spread(m: ev.Metric, unit: str) -> str:
    """The standard error in the value's own unit, two digits, never an exponent."""
    scale = {"%": 100.0, "ms": 1e3, "µs": 1e6, "ns": 1e9}.get(unit, 1.0)
    se = scale * float(m.se or 0.0)
    digits = 0 if se >= 10 else min(6, 1 - math.floor(math.log10(se)))
    return f"{se:,.{digits}f}"
