"""What was drafted, and what the target thought of it, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.analysis import speculation as of
from workbench.panels.base import Cell, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run

#: Shown in the strings of steps, from the last one backwards.
_TEXT = 240


def build(run: Run, baseline: Run | None = None) -> Content:
    """The ribbon of the first sequence that was drafted for; sums of all of them."""
    events = list(run.events)
    verifications = of.drafts(events)
    if not verifications:
        return Content(empty=_nothing(run))
    from workbench.charts.speculation import ribbon

    sequence = verifications[0].sequence
    steps = of.ribbon(events, sequence)
    whose = f", sequence {sequence + 1} of {_sequences(run)}" if _sequences(run) > 1 else ""
    mine = of.tally(events, run.label)
    rows = [_row(mine)]
    if baseline is not None:
        rows.append(_row(of.tally(list(baseline.events), f"{baseline.label} (baseline)")))
    return Content(
        sentences=[_sentence(mine), *_same(run, baseline), *_longest(steps)],
        figures=[ribbon(steps, f"{run.label}: the last steps, token by token{whose}")],
        tables=[Table("Speculation", ["run", "verifications", "drafted", "accepted", "accepted %",
                                      "tokens per verification", "tokens per forward",
                                      "steps without drafts"], rows)])


def _nothing(run: Run) -> str:
    if run.requested.decoding.name() == "plain":
        return ("This run decoded one token per forward. Choose a drafting method, for example "
                "decoding=prompt_lookup or decoding=draft_model, and run again.")
    return "Nothing has been verified yet: the run is still reading its prompt, or its drafter found nothing."


def _sequences(run: Run) -> int:
    return max(1, len(run.prompts))


def _row(tally: of.Tally) -> list[Cell]:
    rate = tally.acceptance
    return [tally.name, tally.verifications, tally.drafted, tally.accepted,
            None if rate is None else 100 * rate, tally.accepted_length, tally.tokens_per_forward,
            tally.plain]


def _sentence(tally: of.Tally) -> str:
    said = (f"{tally.accepted} of {tally.drafted} drafted tokens were kept "
            f"({100 * (tally.acceptance or 0):.0f} %); a verification gave "
            f"{tally.accepted_length or 0:.2f} tokens on average.")
    if tally.plain:
        said += f" {tally.plain} steps ran without drafts."
    return said


def _same(run: Run, baseline: Run | None) -> list[str]:
    """The equality check's verdict where there is one, else what the baseline's text tells."""
    from workbench.analysis.speculation_found import recall_verdict

    verdicts = recall_verdict(run.id)
    if verdicts is not None:
        places = sum(v["places"] for v in verdicts)
        ties, bugs = sum(v["near_ties"] for v in verdicts), sum(v["bugs"] for v in verdicts)
        if not ties and not bugs:
            return [f"Checked: all {places} tokens are the plain target's own."]
        return [f"Checked: of {places} tokens {ties} differ from the plain target's own by numeric near-ties"
                + (f" and {bugs} by a real bug." if bugs else ".")]
    if not run.requested.decoding.lossless:
        return ["This method does not promise the target's own text."]
    if baseline is None or not _comparable(run, baseline):
        return []
    if run.text == baseline.text:
        return ["The text is that of plain decoding (the baseline), as it must be."]
    return [f"The text is not that of plain decoding (the baseline): `workbench check-decoding {run.id}` "
            "tells whether that is rounding at a near-tie or a bug."]


def _comparable(run: Run, baseline: Run) -> bool:
    """The same model, prompt, sampling and length, decoded plainly."""
    a, b = run.requested, baseline.requested
    return (b.decoding.name() == "plain" and run.prompts == baseline.prompts and run.status == "done"
            and baseline.status == "done" and (a.model, a.weights, a.kv, a.sampling, a.seed, a.limits)
            == (b.model, b.weights, b.kv, b.sampling, b.seed, b.limits))


def _longest(steps: list[of.Step]) -> list[str]:
    """The step that gave most: what this text's drafts are good at."""
    best = max(steps, key=lambda s: s.accepted)
    if best.accepted < 2:
        return []
    return [f"The most at once: {best.accepted} drafted tokens in step {best.step}, {best.text[:_TEXT]!r}."]


PANEL = Panel("speculation", "Speculation", "Which drafted tokens did the target keep?", build, order=60,
              live_s=0.5)
