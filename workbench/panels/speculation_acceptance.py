"""Which drafts are right: by their place in the draft, and by the kind of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.analysis import speculation as of
from workbench.panels.base import Cell, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run

#: Below this share of right drafts a place is hardly worth a row.
_SELDOM = 0.2
_FEW = 5


def build(run: Run, baseline: Run | None = None) -> Content:
    """Bars by depth, the baseline's beside them; sums by kind of prompt."""
    events = list(run.events)
    mine = of.by_depth(events)
    if not mine:
        return Content(empty="Nothing was drafted, so nothing could be accepted. Choose a drafting method "
                             "(decoding=prompt_lookup needs no model) and run again.")
    from workbench.charts.speculation import by_depth

    drawn = [(run.label, mine)]
    if baseline is not None and (theirs := of.by_depth(list(baseline.events))):
        drawn.append((f"{baseline.label} (baseline)", theirs))
    kinds = of.by_kind(events, run.prompts)
    return Content(
        sentences=[_first(mine), *_far(mine), *_spread(kinds)], figures=[by_depth(drawn)],
        tables=[_depths(mine),
                Table("By kind of prompt (guessed from its words)", [
                    "kind", "prompts", "drafted", "accepted %", "tokens per verification",
                    "tokens per forward"], [_kind(k) for k in kinds])])


def _depths(found: list[of.Depth]) -> Table:
    reached = max(1, found[0].tried)
    rows: list[list[Cell]] = [
        [d.depth, d.nodes, 100 * d.tried / reached, None if d.rate is None else 100 * d.rate,
         100 * d.kept / reached] for d in found]
    return Table("By place in the draft", ["depth", "tokens drafted there", "reached %",
                                           "right, of these %", "kept, of all verifications %"], rows)


def _kind(tally: of.Tally) -> list[Cell]:
    return [tally.name, len(tally.sequences), tally.drafted,
            None if tally.acceptance is None else 100 * tally.acceptance, tally.accepted_length,
            tally.tokens_per_forward]


def _first(found: list[of.Depth]) -> str:
    first = found[0]
    return (f"The first drafted token was right {first.kept} of {first.tried} times "
            f"({100 * (first.rate or 0):.0f} %).")


def _far(found: list[of.Depth]) -> list[str]:
    """From which depth on a draft is hardly ever kept."""
    whole = max(1, found[0].tried)
    late = [d for d in found if d.kept / whole < _SELDOM and found[0].tried >= _FEW]
    if not late:
        return []
    return [f"At depth {late[0].depth} only {100 * late[0].kept / whole:.0f} % of the verifications kept a "
            f"token; what is drafted deeper than that costs rows and seldom gives any."]


def _spread(kinds: list[of.Tally]) -> list[str]:
    known = [k for k in kinds if k.accepted_length is not None]
    if len(known) < 2:
        return []
    best = max(known, key=lambda k: k.accepted_length or 0)
    worst = min(known, key=lambda k: k.accepted_length or 0)
    return [f"Best on {best.name} ({best.accepted_length:.2f} tokens per verification), worst on "
            f"{worst.name} ({worst.accepted_length:.2f})."]


PANEL = Panel("speculation_acceptance", "Acceptance", "Which drafts are right, and where do they go wrong?",
              build, order=61)
