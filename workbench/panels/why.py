"""Why is this run as fast as it is, or not as fast as the baseline? Cause first, then what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.analysis.advising import advise, verdict
from workbench.analysis.composition import Composition
from workbench.analysis.explain import Explanation, explain
from workbench.analysis.hosttime import places
from workbench.analysis.waterfall import PARTS, SHORT, Breakdown
from workbench.panels.base import Action, Cell, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run

#: Kernels shown behind a bar, and host functions in all.
_BEHIND, _FUNCTIONS = 6, 12


def build(run: Run, baseline: Run | None = None) -> Content:
    """The first cause and its evidence; the parts; the kernels behind each of them."""
    events = list(run.events)
    found = explain(events, list(baseline.events) if baseline is not None else None)
    if found is None:
        return Content(empty="This run has fewer than two tokens, so no time per token can be divided. "
                             "Generate a few dozen tokens.")
    from workbench import charts
    from workbench.charts.parts import parts

    figures = []
    if found.fall is not None and baseline is not None:
        figures.append(charts.waterfall(found.fall.frame(), baseline.label, run.label))
    else:
        figures.append(parts(found.other))
    tables = [_parts(found, run, baseline), *_behind(found), *_host(run)]
    return Content(sentences=[*_headline(found, run, baseline), *_afterwards(found, run)],
                   figures=figures, tables=tables, actions=_actions(found, run))


def _headline(found: Explanation, run: Run, baseline: Run | None) -> list[str]:
    b, first = found.other, found.first
    if baseline is None or found.fall is None:
        said = [f"{run.label} takes {b.total_ms:.3g} ms per token."]
        if first is not None:
            said.append(f"The first thing to look at: {first.say}.")
    else:
        said = [_compared(found, run, baseline)]
        if first is not None:
            said.append(f"The first cause: {first.say}.")
    if len(found.causes) > 1:
        said.append("Then: " + "; ".join(c.say for c in found.causes[1:3]) + ".")
    if not b.whole:
        said.append("No kernel window divides the forwards of this run"
                    + (" or of the baseline" if baseline is not None else "")
                    + "; telemetry.preset=kernels does that in short runs, too.")
    advice = advise(found, run.requested)
    if advice is not None:
        gives = (f"it should give about {advice.expects_ms:.3g} ms per token (estimated: {advice.basis})"
                 if advice.expects_ms is not None else f"what it gives cannot be said before: {advice.basis}")
        said.append(f"Try {advice.label}: {gives}.")
    elif first is not None:
        said.append("No setting changes that; the table of host work names the function to look at."
                    if first.key in ("host", "stalled", "detokenizer") else "No setting changes that.")
    return said


def _compared(found: Explanation, run: Run, baseline: Run) -> str:
    assert found.fall is not None
    assert found.base is not None
    a, b = found.base.total_ms, found.other.total_ms
    if not found.causes and abs(b - a) < 0.02 * a:
        return (f"{run.label} and {baseline.label} take the same time per token within 2 % "
                f"({b:.3g} and {a:.3g} ms).")
    word = "more" if b > a else "less"
    return (f"{run.label} takes {b:.3g} ms per token, {100 * abs(b - a) / a:.0f} % {word} than "
            f"{baseline.label} ({a:.3g} ms).")


def _afterwards(found: Explanation, run: Run) -> list[str]:
    """For a run that was made to try something: was that right?"""
    if not run.advice:
        return []
    return [verdict(run.advice, found.other.total_ms if run.status == "done" else None).say]


def _actions(found: Explanation, run: Run) -> list[Action]:
    advice = advise(found, run.requested)
    if advice is None:
        return []
    expects = {"tok_per_s": 1e3 / advice.expects_ms} if advice.expects_ms else {}
    told = (f"should give about {advice.expects_ms:.3g} ms per token, estimated" if advice.expects_ms
            else "its gain depends on the text")
    return [Action(advice.label, advice.changes, told, expects)]


# -- tables ------------------------------------------------------------------------------------


def _parts(found: Explanation, run: Run, baseline: Run | None) -> Table:
    """All bars, also those too thin to draw; joules by share of time where both runs have them."""
    b, fall = found.other, found.fall
    mine = _joules(run)
    if fall is None:
        rows: list[list[Cell]] = [
            [SHORT[p], PARTS[p], ms, 100 * ms / b.total_ms, _scaled(mine, ms / b.total_ms)]
            for p, ms in b.parts.items()]
        rows.append(["total", "", b.total_ms, 100.0, mine])
        return Table("Parts", ["bar", "what", "ms per token", "%", "J per token (by time, estimated)"], rows)
    theirs = _joules(baseline) if baseline is not None else None
    a = fall.base
    rows = []
    for p, d in fall.deltas.items():
        share_a, share_b = a.parts.get(p, 0.0) / a.total_ms, b.parts.get(p, 0.0) / b.total_ms
        joules = (None if mine is None or theirs is None else mine * share_b - theirs * share_a)
        rows.append([SHORT[p], PARTS[p], a.parts.get(p, 0.0), b.parts.get(p, 0.0), d, joules])
    rows.append(["total", "", a.total_ms, b.total_ms, fall.delta_ms,
                 None if mine is None or theirs is None else mine - theirs])
    return Table("Bars (differences sum to the total's)", [
        "bar", "what", "baseline ms", "this run ms", "difference ms",
        "difference J per token (by time, estimated)"], rows)


def _joules(run: Run | None) -> float | None:
    found = run.metrics.get("j_per_token") if run is not None else None
    return found.value if found is not None and found.quality == "measured" else None


def _scaled(joules: float | None, share: float) -> float | None:
    return None if joules is None else joules * share


def _behind(found: Explanation) -> list[Table]:
    """Rows of every bar of the forward: which operators make it."""
    b, a = found.other, found.base
    made, base = _target(b), _target(a) if a is not None else None
    if made is None:
        return []
    k = 1e3 / b.tokens_per_forward if b.tokens_per_forward else 0.0
    before = _by_name(base, a) if a is not None else {}
    rows: list[list[Cell]] = []
    shown: dict[str, int] = {}
    for line in made.lines:
        if shown.get(line.part, 0) >= _BEHIND or line.part not in b.parts:
            continue
        shown[line.part] = shown.get(line.part, 0) + 1
        ms = line.seconds * k
        rows.append([SHORT[line.part], line.name, line.module or "", line.calls, ms,
                     before.get((line.name, line.module)) if a is not None else None,
                     None if line.floor_s is None else line.floor_s * k])
    rows.sort(key=lambda r: str(r[0]))
    how = "GPU kernels" if made.on_device else "operators"
    return [Table(f"Behind the bars: {how} ({made.windows} windows)", [
        "bar", "kernel", "module", "calls per forward", "ms per token", "baseline ms per token",
        "floor ms per token"], rows)]


def _target(b: Breakdown) -> Composition | None:
    return b.composed.get("verify") or b.composed.get("decode")


def _by_name(made: Composition | None, b: Breakdown) -> dict[tuple[str, str], float]:
    if made is None or not b.tokens_per_forward:
        return {}
    return {(n.name, n.module): n.seconds * 1e3 / b.tokens_per_forward for n in made.lines}


def _host(run: Run) -> list[Table]:
    seen = places(run.events)[:_FUNCTIONS]
    if not seen:
        return []
    return [Table("Host: functions the loop was seen in", ["bar", "function (file:name:line)", "% of looks",
                                                           "looks"],
                  [[_bar(p.what, p.between), p.where, 100 * p.share, p.samples] for p in seen])]


def _bar(what: str, between: bool) -> str:
    return {"sampling": "sampling", "detokenizer": "text", "drafting": "draft", "waiting": "copies",
            "forward": "forward", "stalled": "in forward"}.get(what, "host" if between else "in forward")


PANEL = Panel(key="why", title="Why", question="Why is it this fast, and what to try next?", build=build,
              order=10)
