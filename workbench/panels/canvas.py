"""How a masked-diffusion model filled its canvas, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench import charts
from workbench import events as ev
from workbench.panels.base import Action, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run


def build(run: Run, baseline: Run | None = None) -> Content:
    """The first sequence's canvas, forwards per token, and the baseline's beside them."""
    mine = _commits(run)
    if not mine:
        return Content(empty="This run wrote from left to right. Open the bundled masked-diffusion "
                             "model (wb-dlm) to see a canvas fill in.")
    rows = [_row(run, mine)]
    figures = [charts.canvas(mine, f"{run.label}: how the canvas filled in")]
    sentences = [_sentence(run, mine)]
    if baseline is not None and (theirs := _commits(baseline)):
        rows.append(_row(baseline, theirs))
        figures.append(charts.canvas(theirs, f"{baseline.label} (baseline)"))
        same = run.text == baseline.text
        sentences.append(f"The text is {'the same as' if same else 'not'} the baseline's"
                         + ("." if same else ": places fixed together were guessed apart."))
    actions = [] if run.requested.decoding.name() != "plain" else [Action(
        "Try the confidence threshold", {"decoding": "diffusion_threshold"},
        help="commits everything that the model is sure of")]
    return Content(sentences=sentences, figures=figures, actions=actions, tables=[Table(
        "Canvas", ["run", "forwards", "places", "places per forward", "least confidence"], rows)])


def _commits(run: Run) -> list[ev.Commit]:
    return [e for e in run.events if isinstance(e, ev.Commit) and e.sequence == 0]


def _row(run: Run, commits: list[ev.Commit]) -> list[str | int | float | None]:
    forwards = max(c.step for c in commits)
    return [run.label, forwards, len(commits), len(commits) / forwards,
            min(c.confidence for c in commits)]


def _sentence(run: Run, commits: list[ev.Commit]) -> str:
    forwards = max(c.step for c in commits)
    weak = min(commits, key=lambda c: c.confidence)
    return (f"{len(commits)} places were fixed in {forwards} forwards, "
            f"{len(commits) / forwards:.2f} per forward; the least sure was {weak.text!r} at place "
            f"{weak.place} with {weak.confidence:.2f}.")


PANEL = Panel("canvas", "Canvas", "In which order did the canvas fill in, and how sure was it?", build,
              order=80, live_s=0.5)
