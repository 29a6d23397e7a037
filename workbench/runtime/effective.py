"""Requested versus effective: one record for every setting, read back from what ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from workbench.events import Effective
from workbench.units import format_bytes

if TYPE_CHECKING:
    from workbench.settings import Settings


@dataclass
class Facts:
    """What the runtime knows about a run at the moment of asking."""

    loaded: dict[str, Effective]
    layers: list[str]  # per decoder layer: where its weights are
    attention: str
    executor: str
    kv_label: str
    kv_bytes: int
    kv_tokens: int
    sequences: int
    threads: int
    stops: list[int]
    device: str = "cpu"
    draft: str = ""
    ended: str = ""
    new_tokens: int = 0
    verifications: int = 0
    drafted: int = 0
    accepted: int = 0
    forwards: int = 0
    mean_accepted: float = 1.0
    #: Speculation's own controls: (what ran, why it differs or empty).
    speculation: dict[str, tuple[str, str]] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)  # a control of the decoding -> what really ran
    watched: bool = False
    finished: bool = False


def records(settings: Settings, facts: Facts) -> list[Effective]:
    """One per path of ``settings.flat()``, and ``attention`` and ``executor``, which have no knob."""
    found = []
    for path, value in settings.flat().items():
        if path in facts.loaded:
            found.append(_multiplied(facts.loaded[path], facts.executor))
            continue
        effective, reason = _read(path, value, settings, facts)
        found.append(Effective(path=path, requested=str(value), effective=effective,
                               honoured=not reason, reason=reason))
    found += [_multiplied(e, facts.executor) for p, e in facts.loaded.items() if p not in settings.flat()]
    found.append(Effective(path="attention", requested="auto", effective=facts.attention))
    found.append(Effective(path="executor", requested="auto", effective=facts.executor))
    return found


def _multiplied(record: Effective, executor: str) -> Effective:
    """Where the native executor runs the forward, its products read plain bfloat16 matrices, too."""
    if not executor.startswith("native") or not record.path.startswith("weights"):
        return record
    isa = executor.rpartition("(")[2].rstrip(")")
    return msgspec.structs.replace(record, effective=record.effective.replace(
        "F.linear bfloat16", f"native bf16 ({isa})"))


def _read(path: str, value: Any, settings: Settings, facts: Facts) -> tuple[str, str]:
    """(what ran, why it differs or empty)."""
    group, _, knob = path.partition(".")
    reader = {"kv": _kv, "tiers": _tiers, "decoding": _decoding, "sampling": _sampling,
              "limits": _limits, "compute": _compute, "telemetry": _telemetry, "seed": _seed
              }.get(group)
    return reader(knob, value, settings, facts) if reader else (str(value), "")


def _kv(knob: str, value: Any, settings: Settings, facts: Facts) -> tuple[str, str]:
    if knob:
        return str(value), ""
    return (f"{facts.kv_label}; {format_bytes(facts.kv_bytes)} allocated for {facts.sequences} x "
            f"{facts.kv_tokens} tokens"), ""


def _tiers(knob: str, value: Any, settings: Settings, facts: Facts) -> tuple[str, str]:
    return (str(value) if knob else runs_of(facts.layers)), ""


def runs_of(layers: list[str]) -> str:
    """``["gpu", "gpu", "ram"]`` -> ``"layers 0-1: gpu; layer 2: ram"``."""
    parts, start = [], 0
    for i in range(1, len(layers) + 1):
        if i == len(layers) or layers[i] != layers[start]:
            span = f"layer {start}" if i - start == 1 else f"layers {start}-{i - 1}"
            parts.append(f"{span}: {layers[start]}")
            start = i
    return "; ".join(parts)


def _decoding(knob: str, value: Any, settings: Settings, facts: Facts) -> tuple[str, str]:
    if knob in facts.says:
        return facts.says[knob] if knob else f"{value}: {facts.says[knob]}", ""
    if knob == "draft":
        return facts.draft or str(value), ""
    if knob in facts.speculation:
        return facts.speculation[knob]
    if knob == "rule" and settings.sampling.temperature == 0:
        return "greedy verification", ""
    if knob or settings.decoding.rows() == 1:
        return str(value), ""
    if not facts.verifications:
        return str(value), ("nothing was drafted, so every token was decoded plainly"
                            if facts.finished else "")
    return (f"{value}: {facts.accepted} of {facts.drafted} drafted tokens accepted, mean accepted "
            f"length {facts.mean_accepted:.2f} tokens per target forward"), ""


def _sampling(knob: str, value: Any, settings: Settings, facts: Facts) -> tuple[str, str]:
    if settings.sampling.temperature == 0:
        if knob == "temperature":
            return "0 (greedy)", ""
        off = value == (0 if knob == "top_k" else 1.0)
        return "not used", "" if off else f"temperature 0 is greedy, so {knob} has no effect"
    return str(value), ""


def _limits(knob: str, value: Any, settings: Settings, facts: Facts) -> tuple[str, str]:
    if knob == "batch":
        return str(facts.sequences), ("" if facts.sequences == value else
                                      f"{facts.sequences} prompts were given")
    if knob == "stop_at_eos":
        if value and not facts.stops:
            return "false", "the model names no end token"
        return (f"true (token {', '.join(map(str, facts.stops))})" if value else "false"), ""
    if facts.finished:
        why = {"eos": "ended by itself", "length": "stopped at the limit"}.get(facts.ended,
                                                                              facts.ended)
        return f"{facts.new_tokens} new tokens{f' ({why})' if why else ''}", ""
    return str(value), ""


def _compute(knob: str, value: Any, settings: Settings, facts: Facts) -> tuple[str, str]:
    if knob == "threads":
        same = value in (0, facts.threads)
        return str(facts.threads), "" if same else "torch uses another number of threads"
    if knob == "graphs" and value == "auto":
        return ("CUDA graphs" if facts.executor.startswith("CUDA graphs") else
                "not used: " + ("no GPU" if "cuda" not in facts.device else facts.executor)), ""
    return str(value), ""


def _telemetry(knob: str, value: Any, settings: Settings, facts: Facts) -> tuple[str, str]:
    if knob == "preset" and not facts.watched and value != "off":
        return "off", "no monitor was attached to this run"
    return str(value), ""


def _seed(knob: str, value: Any, settings: Settings, facts: Facts) -> tuple[str, str]:
    return (f"{value} (greedy: not used)" if settings.sampling.temperature == 0 else str(value)), ""
