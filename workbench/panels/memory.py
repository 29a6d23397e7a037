"""What memory is used for, on every tier, over time; and when it ran out, what would have fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.analysis import frames
from workbench.analysis.memory_use import USES, TierPeak, at_the_end, failures, peaks
from workbench.events import MemoryFailure, RunStarted
from workbench.panels.base import Action, Cell, Content, Panel, Table
from workbench.units import format_bytes

if TYPE_CHECKING:
    from workbench.settings import Settings
    from workbench.store import Run

_NAMES = {"gpu": "GPU", "ram": "RAM", "disk": "disk"}
#: Room that a proposal must leave below the limit: allocators do not pack perfectly.
_SLACK = 0.95
_OFFERED = 3


def build(run: Run, baseline: Run | None = None) -> Content:
    """The peaks, or the post-mortem when the run ran out of memory."""
    from workbench import charts

    events = list(run.events)
    found, failed = peaks(events), failures(events)
    if not found and not failed:
        return Content(empty="Memory was not sampled in this run; runs that generate text sample it "
                             "once a second.")
    said, actions, tables = [], [], []
    if failed:
        fits = _fitting(run, failed)
        said += _post_mortem(run, failed, fits)
        actions = [Action(label, changes, f"forecast: {format_bytes(total)}, estimated")
                   for label, changes, total in fits[:_OFFERED]]
        tables.append(_failed_table(failed))
    said += [_sentence(p) for p in found]
    said += [f"{_NAMES[p.tier]} activations: not known, {r}." for p in found
             for r in p.reasons.values()]
    said += _against(found, baseline)
    figures = [charts.memory_by_tier(frames.memory(events))] if found else []
    return Content(sentences=said, figures=figures, tables=[*tables, *([_table(found)] if found else [])],
                   actions=actions)


def _sentence(p: TierPeak) -> str:
    used = sorted(((v, k) for k, v in p.uses.items() if v), reverse=True)
    what = ", ".join(f"{k} {format_bytes(v)}" for v, k in used[:4])
    rest = f", {format_bytes(p.rest)} libraries and the rest" if p.rest else ""
    of = f" of {format_bytes(p.limit)}" if p.limit else ""
    return f"{_NAMES[p.tier]}: {format_bytes(p.total)}{of} at most ({what}{rest})."


def _against(found: list[TierPeak], baseline: Run | None) -> list[str]:
    if baseline is None:
        return []
    theirs = {p.tier: p for p in peaks(baseline.events)}
    said = []
    for p in found:
        base = theirs.get(p.tier)
        if base is None:
            continue
        parts = [(k, (p.uses.get(k) or 0) - (base.uses.get(k) or 0)) for k in USES.values()]
        name, change = max(parts, key=lambda c: abs(c[1]))
        if change:
            word = "more" if change > 0 else "less"
            said.append(f"{_NAMES[p.tier]}: {format_bytes(abs(change))} {word} for {name} than "
                        f"{baseline.label}.")
    return said


def _table(found: list[TierPeak]) -> Table:
    columns = ["tier", *(f"{n} MiB" for n in USES.values()), "rest MiB", "total MiB", "limit MiB",
               "read from"]
    rows: list[list[Cell]] = [
        [_NAMES[p.tier], *(_mib(p.uses.get(n)) for n in USES.values()), _mib(p.rest), _mib(p.total),
         _mib(p.limit or None), p.source] for p in found]
    return Table("Peak by tier and use", columns, rows)


def _mib(n: int | None) -> float | None:
    return None if n is None else n / (1 << 20)


# -- after running out -------------------------------------------------------------------------


def _post_mortem(run: Run, failed: list[MemoryFailure], fits: list[tuple[str, dict[str, Any], int]]
                 ) -> list[str]:
    said = []
    parts = at_the_end(run.events)
    for f in failed:
        held = f"{_NAMES[f.tier]} held {format_bytes(f.held_bytes)}"
        limit = f" of {format_bytes(f.limit_bytes)}, {f.limit}" if f.limit_bytes else ""
        asked = (f"; {format_bytes(f.asked_bytes)} more was asked for" if f.asked_bytes else
                 "; the allocator did not say how much more was asked for" if _failing(f, failed) else "")
        uses = _uses(parts.get(f.tier))
        said.append(f"Memory ran out while {f.doing or 'working'}: {held}{limit}{asked}.{uses}")
    if fits:
        said.append("By the forecast, estimated, these would fit: " + "; ".join(
            f"{label} ({format_bytes(total)})" for label, _, total in fits[:_OFFERED]) + ".")
    else:
        said.append("No single change of weights, cache, length, batch or tier fits by the forecast; "
                    "combine them, or choose a smaller model.")
    return said


def _failing(f: MemoryFailure, failed: list[MemoryFailure]) -> bool:
    return all(other.asked_bytes is None for other in failed)


def _uses(reading: Any) -> str:
    if reading is None:
        return " Nothing had been placed yet."
    known = [f"{name} {format_bytes(getattr(reading, key))}" for key, name in USES.items()
             if getattr(reading, key)]
    return f" At the last look: {', '.join(known)}." if known else ""


def _failed_table(failed: list[MemoryFailure]) -> Table:
    return Table("When memory ran out", ["tier", "while", "held MiB", "asked MiB", "free MiB", "limit MiB",
                                         "limit"],
                 [[_NAMES[f.tier], f.doing, _mib(f.held_bytes), _mib(f.asked_bytes), _mib(f.free_bytes),
                   _mib(f.limit_bytes), f.limit] for f in failed])


def _candidates(settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    """Single changes and two together, the mildest first."""
    half = max(1, settings.limits.max_new_tokens // 2)
    single: list[tuple[str, dict[str, Any]]] = []
    if settings.limits.batch > 1:
        single.append(("batch 1", {"limits.batch": 1}))
    if settings.kv.name() != "int8":
        single.append(("kv=int8", {"kv": "int8"}))
    for name in ("int8", "int4"):
        if settings.weights.name() not in (name, "int4"):
            single.append((f"weights={name}", {"weights": name}))
    single.append((f"{half} new tokens", {"limits.max_new_tokens": half}))
    single.append(("tiers=stream", {"tiers": "stream"}))
    quarter = max(1, half // 4)
    single.append((f"{quarter} new tokens", {"limits.max_new_tokens": quarter}))
    pairs: list[tuple[str, dict[str, Any]]] = [
             ("weights=int4 and kv=int8", {"weights": "int4", "kv": "int8"}),
             (f"weights=int4, kv=int8 and {quarter} new tokens",
              {"weights": "int4", "kv": "int8", "limits.max_new_tokens": quarter}),
             ("tiers=stream and weights=int4", {"tiers": "stream", "weights": "int4"})]
    return single + pairs


def _fitting(run: Run, failed: list[MemoryFailure]) -> list[tuple[str, dict[str, Any], int]]:
    """(label, changes, forecast bytes of the failing tier) of what fits below the limit.

    A limit on address space counts more than what is resident, so what was held beyond the
    forecast's own libraries is taken off it."""
    from workbench.errors import WorkbenchError
    from workbench.forecast import memory

    shape, machine = _shape(run), _machine(run)
    failing = next((f for f in failed if f.asked_bytes is not None), failed[-1])
    room = _room(run, failing)
    if shape is None or room is None:
        return []
    found = []
    for label, changes in _candidates(run.requested):
        try:
            settings = run.requested.with_(changes)
            settings.check(shape, machine)
            tokens = settings.limits.max_new_tokens + _prompt_tokens(run)
            uses = memory.tiers(settings, shape, machine, None, tokens)
        except WorkbenchError:
            continue
        total = sum(u.total_bytes - (u.workspace_bytes if u.tier == "ram" else 0) for u in uses
                    if u.tier == failing.tier)
        if total <= room * _SLACK:
            found.append((label, changes, total))
    return found


def _room(run: Run, failing: MemoryFailure) -> int | None:
    """Bytes that the model, its cache and its activations may take below the limit."""
    if failing.limit_bytes is None:
        return None
    reading = at_the_end(run.events).get(failing.tier)
    placed = 0 if reading is None else sum(getattr(reading, k) for k in USES)
    # Libraries, and address space that nothing lies in.
    others = failing.bare_bytes if failing.bare_bytes is not None else max(0, failing.held_bytes - placed)
    room = failing.limit_bytes - others
    free = run.environment.get("memory_available_bytes")
    if failing.tier == "ram" and "address" not in failing.limit and isinstance(free, int):
        room = min(room, free)
    return room


def _prompt_tokens(run: Run) -> int:
    started = [e for e in run.events if isinstance(e, RunStarted)]
    return started[-1].prompt_tokens if started else max(64, len(run.prompt) // 3)


def _shape(run: Run) -> Any:
    from workbench.shape import ModelShape

    data = run.environment.get("shape")
    if not isinstance(data, dict):
        return None
    known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
                             if k in ModelShape.__dataclass_fields__}
    try:
        return ModelShape(**known)
    except TypeError:  # a record of another version
        return None


def _machine(run: Run) -> Any:
    """The machine as recorded with the run; the forecast's limits must not be this one's."""
    from workbench.machine import Gpu, Machine, this_machine

    data = run.environment.get("machine")
    if not isinstance(data, dict):
        return this_machine()
    gpus = tuple(Gpu(**g) for g in data.get("gpus", ()))
    known = {k: v for k, v in data.items() if k in Machine.__dataclass_fields__ and k != "gpus"}
    return Machine(**known, gpus=gpus)


PANEL = Panel(key="memory", title="Memory", question="What is memory used for, and what would fit?",
              build=build, order=50)
