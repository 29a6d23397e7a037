"""Does speculation pay: where a token's time goes, where break-even lies, what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.analysis import speculation as of
from workbench.analysis import speculation_cost as cost
from workbench.panels.base import Action, Cell, Content, Panel, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.events import Event
    from workbench.store import Run
    from workbench.techniques.base import Control

_PLAIN = {"decoding": "plain"}
#: A change must be worth at least this much to be proposed.
_WORTH = 1.03
#: Measured and by the forwards: beyond this ratio of the two a run was disturbed.
_APART = 1.4
#: A part of the time that is worth a sentence.
_MUCH = 0.25


def build(run: Run, baseline: Run | None = None) -> Content:
    """Split, surface, advice. Figures that lie between measured points are called estimated."""
    events = list(run.events)
    parts = cost.split(events)
    if parts is None or not of.drafts(events):
        return Content(empty="Nothing was verified, so there are no costs of speculation to divide. Choose a "
                             "drafting method, for example decoding=token_recycling, and run again.")
    from workbench.charts import speculation as charts

    others = [list(baseline.events)] if baseline is not None else []
    drawn = [(run.label, parts.parts())]
    if baseline is not None and (theirs := cost.split(others[0])):
        drawn.append((f"{baseline.label} (baseline)", theirs.parts()))
    batch = max(1, len(run.prompts))
    found = cost.break_even(events, *others, batch=batch)
    figures = [charts.cost_split(drawn)]
    if found is not None:
        figures.append(charts.break_even(found))
    sentences = [_divided(parts), *_pays(found, run, baseline)]
    actions = [*_searched_action(run), *_actions(run, events, others, found)][:3]  # measured ones first
    return Content(sentences=[*sentences, *_searched(run)], figures=figures, actions=actions,
                   tables=[_split_table(drawn), _costs_table(events, others), *_searched_table(run)])


def _divided(parts: cost.Split) -> str:
    said = ", ".join(f"{name} {ms:.3g} ms ({100 * ms / parts.total_ms:.0f} %)"
                     for name, ms in parts.parts().items() if ms)
    return f"A token takes {parts.total_ms:.3g} ms: {said}."


def _pays(found: cost.BreakEven | None, run: Run, baseline: Run | None) -> list[str]:
    """What the run gained: measured beside a plain baseline, and from its own forwards."""
    ratio = _measured(run, baseline)
    said = [] if ratio is None or baseline is None else [
        f"Measured: {ratio:.2f} times the tokens per second of {baseline.label}."]
    if found is None:
        return [*said, "No plain step was timed in this run, so break-even is not known; run plain decoding "
                       "once and make it the baseline."]
    needed = found.needed(found.batch)
    said.append(f"By the run's measured forwards a drafted step is worth {found.here:.2f} times a plain one "
                f"at the {100 * found.acceptance:.0f} % that were right" + (
                    f"; it pays from about {100 * needed:.0f} % on (estimated)." if needed is not None else
                    "; no acceptance would make drafts of this size pay here (estimated)."))
    if ratio is not None and not 1 / _APART < ratio / found.here < _APART:
        said.append("The two disagree, so the machine was busy with something else during one of the runs; "
                    "the forwards' figure is that of undisturbed steps.")
    lost = next((b for b in found.batches if b > found.batch and
                 found.speedup[found.batches.index(b)][_nearest(found.acceptance)] < 1.0), None)
    if found.here >= 1.0 and lost is not None:
        said.append(f"In batches from about {lost} on it would cost more than it gives (estimated).")
    return said


def _measured(run: Run, baseline: Run | None) -> float | None:
    """Tokens per second against a baseline that decoded as many sequences plainly."""
    if baseline is None or baseline.requested.decoding.name() != "plain" or (
            len(baseline.prompts) != len(run.prompts)):
        return None
    mine, theirs = run.metrics.get("tok_per_s"), baseline.metrics.get("tok_per_s")
    if mine is None or theirs is None or not mine.value or not theirs.value:
        return None
    return float(mine.value / theirs.value)


def _nearest(acceptance: float) -> int:
    return min(range(len(cost.ACCEPTANCES)), key=lambda i: abs(cost.ACCEPTANCES[i] - acceptance))


# -- what to try -----------------------------------------------------------------------------------


def _actions(run: Run, events: Sequence[Event], others: Sequence[Sequence[Event]],
             found: cost.BreakEven | None) -> list[Action]:
    """Plain decoding where drafts do not pay, another length where the formula sees one, drafts without a
    model where drafting is what costs."""
    if found is None:
        return [Action("Run plain decoding", _PLAIN, "the baseline that break-even needs")]
    made = []
    rate = run.metrics.get("tok_per_s")
    speed = rate.value if rate is not None and rate.value else None
    if found.here < 1.0:
        expects = {"tok_per_s": speed / found.here} if speed else {}
        made.append(Action("Decode plainly", _PLAIN, f"about {1 / found.here:.2f} times as fast by this "
                           "run's forwards, estimated", expects))
    other = _length(run, events, others, found)
    if other is not None:
        made.append(other)
    parts = cost.split(events)
    if parts is not None and parts.draft_ms > _MUCH * parts.total_ms:
        made.append(Action("Draft without a model", {"decoding": "token_recycling"},
                           f"drafting takes {100 * parts.draft_ms / parts.total_ms:.0f} % of the time; "
                           "tables draft for almost nothing, what they give depends on the text"))
    controls = {c.name for c in run.requested.decoding.controls()}
    if not made and "length" in controls and getattr(run.requested.decoding, "length", "") == "fixed":
        made.append(Action("Let the length adapt", {"decoding.length": "auto"},
                           "drafts as far as acceptance and the cost of a row make worth it"))
    return made


def _length(run: Run, events: Sequence[Event], others: Sequence[Sequence[Event]],
            found: cost.BreakEven) -> Action | None:
    """Another number of drafted tokens, for methods that draft chains (of a tree, length says little)."""
    knob = length_control(run)
    drafts = of.drafts(events)
    if knob is None or any(d.parents for d in drafts):
        return None
    how, prices = cost.method(events), cost.costs(events, *others)
    assert how is not None
    each = how.draft_s / max(how.nodes, 1e-9)

    def gain(n: int) -> float:
        return cost.speedup(found.acceptance, found.batch, prices, cost.Method(n, n, each * n, how.rest_s))

    now = int(getattr(run.requested.decoding, knob.name))
    lengths = range(int(knob.low or 1), int(min(knob.high or 16, 16)) + 1)
    best = max(lengths, key=gain)
    if best == now or gain(best) < _WORTH * found.here:
        return None
    rate = run.metrics.get("tok_per_s")
    expects = {"tok_per_s": rate.value * gain(best) / found.here} if rate is not None and rate.value else {}
    return Action(f"Draft {best} tokens instead of {now}", {f"decoding.{knob.name}": best},
                  f"about {gain(best) / found.here:.2f} times as fast, estimated from acceptance and the "
                  "cost of a row", expects)


def length_control(run: Run) -> Control | None:
    """The setting that says how many tokens are drafted each time, or None. A copied span's length is a
    limit that the text seldom reaches, so the formula does not apply to it."""
    return next((c for c in run.requested.decoding.controls() if c.name in ("gamma", "window")), None)


# -- what a search found ---------------------------------------------------------------------------


def _places(run: Run) -> list[dict[str, Any]]:
    """Of the last search with this model on this machine, best first."""
    from workbench.analysis.speculation_found import recall

    found = recall(run.requested)
    return list(found["places"]) if found is not None else []


def _searched(run: Run) -> list[str]:
    places = _places(run)
    if not places:
        return ["Which method and length are the fastest here, for your own prompts, is found by `workbench "
                "bench draft` or workbench.speculation.search(session)."]
    best = places[0]
    return [f"The last search on this machine put {best['decoding']} first, at {best['ratio']:.2f} times "
            f"plain decoding ({best['runs']} pairs measured)."]


def _searched_action(run: Run) -> list[Action]:
    """Apply the search's best, where it beats plain decoding and is not what ran."""
    places = _places(run)
    if not places or places[0]["ratio"] < _WORTH or _same(run, places[0]["decoding"]):
        return []
    best = places[0]
    return [Action(f"Use {best['decoding']}", {"decoding": best["decoding"]},
                   f"the best of the last search here: {best['ratio']:.2f} times plain decoding on the "
                   "prompts it was given, measured")]


def _same(run: Run, decoding: str) -> bool:
    """Whether the run used this method with these values, whatever it was told about falling back."""
    chosen = run.requested.with_({"decoding": decoding}).decoding
    mine = run.requested.decoding
    names = [c.name for c in chosen.controls() if c.name != "fallback"]
    return chosen.name() == mine.name() and all(getattr(chosen, n) == getattr(mine, n) for n in names)


def _searched_table(run: Run) -> list[Table]:
    rows: list[list[Cell]] = [[p["decoding"], p["ratio"], p["ratio_low"], p["ratio_high"], p["per_forward"],
                               p["rounds"]] for p in _places(run)[:8]]
    return [Table("Found by the last search (measured)", ["method", "x plain", "lower quartile",
                                                          "upper quartile", "tokens per forward", "rounds"],
                  rows)] if rows else []


# -- tables ----------------------------------------------------------------------------------------


def _split_table(drawn: list[tuple[str, dict[str, float]]]) -> Table:
    rows: list[list[Cell]] = [[name, *values.values(), sum(values.values())] for name, values in drawn]
    return Table("ms per emitted token", ["run", *drawn[0][1], "total"], rows)


def _costs_table(events: Sequence[Event], others: Sequence[Sequence[Event]]) -> Table:
    found = cost.costs(events, *others)
    rows: list[list[Cell]] = [[n, 1e3 * found(n), found(n) / found(1) if found.measured(1) else None,
                               found.origin[n]] for n in sorted(found.seconds)]
    return Table("What a forward costs by its rows (measured)", ["rows", "ms", "x one row", "seen in"], rows)


PANEL = Panel("speculation_cost", "Does speculation pay?",
              "Where does a token's time go, and would another draft pay more?", build, order=62)
