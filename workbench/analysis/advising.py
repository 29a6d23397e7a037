"""The one control to try for a cause, what it should give, and afterwards whether that was right.

Every expectation is made from the run's own measured parts (a part that shrinks with its bytes, a
part that goes away) and is labelled estimated wherever it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workbench.analysis.explain import Advice, Explanation
from workbench.analysis.waterfall import PER_FORWARD, Breakdown

if TYPE_CHECKING:
    from workbench.settings import Settings

#: Stored weights from more to fewer bytes; the next one is tried.
_FEWER = {"fp32": "bf16", "bf16": "int8", "int8": "int4"}
#: A square matrix that stands for all of them when stored bytes are compared.
_SIDE = 4096


def advise(found: Explanation, settings: Settings) -> Advice | None:
    """For the first cause that a control can do something about; None when none can."""
    for cause in found.causes:
        make = _BY_CAUSE.get(cause.key)
        advice = make(found, settings) if make is not None else None
        if advice is None:
            continue
        if advice.expects_ms is not None and advice.expects_ms >= found.other.total_ms:
            return replace(advice, expects_ms=None, basis=(
                "the measured parts bound it only from above, by more than the run takes now"))
        return advice
    return None


def _less_weights(found: Explanation, settings: Settings) -> Advice | None:
    name = settings.weights.name()
    to = _FEWER.get(name)
    if to is None:
        return None
    wanted = settings.with_({"weights": to})
    ratio = wanted.weights.storage_bytes(_SIDE, _SIDE) / settings.weights.storage_bytes(_SIDE, _SIDE)
    b = found.other
    part = "weights" if "weights" in b.parts else "decode"
    saved = b.parts.get(part, 0.0) * (1 - ratio)
    basis = f"the {b.parts.get(part, 0.0):.3g} ms of reading weights, times their bytes ({ratio:.2g})"
    return Advice(f"weights={to}", {"weights": to},
                  b.total_ms - saved if part == "weights" else None,
                  basis if part == "weights" else "no kernel window divides this forward")


def _less_cache(found: Explanation, settings: Settings) -> Advice | None:
    if settings.kv.name() == "int8":
        return None
    held = found.other.parts.get("attention", 0.0)
    return Advice("kv=int8", {"kv": "int8"}, found.other.total_ms - 0.5 * held,
                  f"half the bytes of the {held:.3g} ms of attention")


def _fused(found: Explanation, settings: Settings) -> Advice | None:
    """Weights that are multiplied as they are stored: nothing is unpacked first."""
    if settings.weights.name() in ("bf16", "fp32"):
        return None
    b = found.other
    packed = settings.weights.storage_bytes(_SIDE, _SIDE)
    plain = settings.with_({"weights": "bf16"}).weights.storage_bytes(_SIDE, _SIDE)
    more = b.parts.get("weights", 0.0) * (plain / packed - 1)
    return Advice("weights=bf16", {"weights": "bf16"},
                  b.total_ms - b.parts.get("dequant", 0.0) + more,
                  "the unpacking goes away, the products read more bytes")


def _plain(found: Explanation, settings: Settings) -> Advice | None:
    """Without a draft: one forward per token, as the baseline ran it, or at what a verification costs."""
    if settings.decoding.name() == "plain":
        return None
    b, base = found.other, found.base
    if base is not None and base.acceptance is None and base.weights == b.weights:
        return Advice("decoding=plain", {"decoding": "plain"}, base.total_ms,
                      "what the baseline took without a draft")
    per_forward = sum(b.parts.get(p, 0.0) for p in PER_FORWARD)
    forward = per_forward * b.tokens_per_forward
    return Advice("decoding=plain", {"decoding": "plain"}, forward + b.parts.get("prefill", 0.0),
                  f"one forward per token at the {forward:.3g} ms that a forward takes now, at most")


def _resident(found: Explanation, settings: Settings) -> Advice | None:
    if settings.tiers.name() == "resident":
        return None
    return Advice("tiers=resident", {"tiers": "resident"}, _without(found.other, "copies"),
                  "no waiting, if the weights fit")


def _greedy(found: Explanation, settings: Settings) -> Advice | None:
    if settings.sampling.temperature == 0.0:
        return None
    return Advice("sampling.temperature=0", {"sampling.temperature": 0.0},
                  _without(found.other, "sampling"), "choosing costs next to nothing then; the text changes")


def _quiet(found: Explanation, settings: Settings) -> Advice | None:
    if settings.telemetry.preset == "off":
        return None
    to = "light" if settings.telemetry.preset in ("kernels", "deep") else "off"
    return Advice(f"telemetry.preset={to}", {"telemetry.preset": to},
                  _without(found.other, "telemetry"), "the capture's own meter")


def _threads(found: Explanation, settings: Settings) -> Advice | None:
    base, mine = found.base, found.evidence
    if settings.compute.threads == 0:
        return None
    expects = base.total_ms if base is not None else None
    if expects is None and mine.cores > mine.threads > 0:
        cause = next(c for c in found.causes if c.key == "threads")
        expects = found.other.total_ms - cause.ms
    return Advice("compute.threads=0", {"compute.threads": 0}, expects,
                  "what the baseline took with its threads" if base is not None else
                  "the computed parts shared by all cores")


def _again(found: Explanation, settings: Settings) -> Advice:
    mine = found.evidence
    return Advice("run again when the neighbour is gone", {},
                  found.other.total_ms / (1 + mine.disturbed) if mine.disturbed else None,
                  "the time without what our threads waited")


def _share(found: Explanation, settings: Settings) -> Advice | None:
    """Work that every forward does again is shared by more tokens per forward."""
    if settings.decoding.name() != "plain" or settings.limits.batch > 1:
        return None
    return Advice("decoding=prompt_lookup", {"decoding": "prompt_lookup"}, None,
                  "how many tokens a forward then gives depends on the text")


def _without(b: Breakdown, part: str) -> float:
    return b.total_ms - b.parts.get(part, 0.0)


_BY_CAUSE: dict[str, Callable[[Explanation, Any], Advice | None]] = {
    "weights": _less_weights, "decode": _less_weights, "verify": _plain, "attention": _less_cache,
    "dequant": _fused, "draft": _plain, "rejected": _plain, "copies": _resident,
    "sampling": _greedy, "telemetry": _quiet, "threads": _threads, "neighbour": _again,
    "launch": _share, "small": _share, "host": _share,
}


# -- afterwards --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """``right``: the change went the way that was promised, by at least half as much.

    None where nothing was promised or measured."""

    right: bool | None
    say: str


def verdict(advice: Mapping[str, Any], measured_ms: float | None) -> Verdict:
    """``advice`` as a run keeps it (``label before expects``: metric -> value); ``measured_ms``: per
    token."""
    label = str(advice.get("label", "the advice"))
    before, expects = _ms(advice.get("before")), _ms(advice.get("expects"))
    if measured_ms is None or not before:
        return Verdict(None, f"This run tried “{label}”; its time per token is not known.")
    change = f"{before:.3g} ms per token before, {measured_ms:.3g} now"
    if expects is None:
        return Verdict(None, f"This run tried “{label}”, which promised no figure: {change}.")
    promised, got = before - expects, before - measured_ms
    right = got >= 0.5 * promised if promised > 0 else abs(got) <= 0.1 * before
    judged = "The advice was right" if right else "The advice was wrong"
    return Verdict(right, f"{judged}: “{label}” promised {expects:.3g} ms per token (estimated), "
                          f"measured {measured_ms:.3g}; {change}.")


def _ms(values: Any) -> float | None:
    """Milliseconds per token of ``{"tok_per_s": ...}``, None when it is not there."""
    rate = values.get("tok_per_s") if isinstance(values, Mapping) else None
    return 1e3 / rate if rate else None
