"""What fixing many places at once does to the answers: the run beside every decoder of its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench import events as ev
from workbench.analysis.parallelism import Point, Study, fastest_good, recall
from workbench.panels.base import Action, Cell, Content, Panel, Table

if TYPE_CHECKING:
    from workbench.store import Run

#: Shown beside the run's own task: one right answer, and many whose words depend on each other.
_TELLING = ("copy", "shuffle", "replace-random", "add")
_GOOD = 0.9


def build(run: Run, baseline: Run | None = None) -> Content:
    """Measured shares of valid answers over tokens per forward, the run's own speed marked."""
    commits = [e for e in run.events if isinstance(e, ev.Commit) and e.sequence == 0]
    if not commits:
        return Content(empty="This run wrote from left to right. Open the bundled masked-diffusion model "
                             "(wb-dlm) to see what parallel decoding costs.")
    found = recall(run.requested.model.source, _folder(run.requested.model.source))
    if found is None:
        return Content(empty="Nobody has measured this model's answers here. `workbench bench diffusion "
                             f"{run.requested.model.source}` does, on list tasks.")
    from workbench.charts.canvas import parallelism

    task = (run.prompts[0].split() or [""])[0] if run.prompts else ""
    speed = _per_forward(run, commits)
    shown = [t for t in dict.fromkeys((task, *_TELLING)) if t in found.tasks]
    return Content(sentences=[*_of_task(found, task, speed), *_fallen(found)],
                   figures=[parallelism(found, shown, here=(task, speed))],
                   tables=[_table(found, task)] if task in found.tasks else [],
                   actions=_actions(run, found, task))


def _folder(source: str) -> Path | None:
    from workbench import zoo

    if source in zoo.names():
        return zoo.path(source)
    path = Path(source).expanduser()
    return path if path.is_dir() else None


def _per_forward(run: Run, commits: list[ev.Commit]) -> float:
    """As the study counts: the text and its end over the network's evaluations."""
    tokens = sum(isinstance(e, ev.Token) and e.sequence == 0 for e in run.events) + 1
    return min(tokens, len(commits)) / max(1, max(c.step for c in commits))


def _of_task(found: Study, task: str, speed: float) -> list[str]:
    points = found.of(task)
    if not points:
        return [f"This run fixed {speed:.2f} tokens per forward; its prompt is none of the measured tasks."]
    said = [f"This run fixed {speed:.2f} tokens per forward."]
    best = fastest_good(points, _GOOD)
    worst = min(points, key=lambda p: p.valid)
    if best is not None:
        said.append(f"On {task}, {best.decoder} is the most parallel one that is right at least "
                    f"{100 * _GOOD:.0f} % of the time: {100 * best.valid:.0f} % of {best.examples} at "
                    f"{best.per_forward:.1f} tokens per forward.")
    if worst.valid < _GOOD:
        said.append(f"{worst.decoder} is right {100 * worst.valid:.0f} % of the time at "
                    f"{worst.per_forward:.1f}.")
    return said


def _fallen(found: Study) -> list[str]:
    """The ordering that the closed forms predict, where the study shows it."""
    wide = [p for p in found.points if p.decoder == "diffusion_static(count=4)"]
    kept = [p.task for p in wide if p.valid >= _GOOD]
    lost = [p.task for p in wide if p.valid < 0.5]
    if not kept or not lost:
        return []
    return [f"Four places at a time leave {', '.join(kept)} as good as they were and break "
            f"{', '.join(lost)}: there the words of an answer depend on each other."]


def _table(found: Study, task: str) -> Table:
    rows: list[list[Cell]] = [_row(p) for p in reversed(found.of(task))]
    return Table(f"{task}: measured on {found.examples} held-out examples", [
        "decoder", "tokens per forward", "rows per forward", "valid %", "95 % from", "to",
        "texts as one place per forward"], rows)


def _row(p: Point) -> list[Cell]:
    low, high = p.interval
    return [p.decoder, p.per_forward, p.rows / p.forwards, 100 * p.valid, 100 * low, 100 * high, p.same]


def _actions(run: Run, found: Study, task: str) -> list[Action]:
    best = fastest_good(found.of(task), _GOOD)
    if best is None or run.requested.with_({"decoding": best.decoder}).decoding == run.requested.decoding:
        return []
    return [Action(f"Try {best.decoder}", {"decoding": best.decoder},
                   f"{best.per_forward:.1f} tokens per forward, {100 * best.valid:.0f} % valid on {task}")]


PANEL = Panel("parallelism", "Quality against parallelism",
              "What does fixing many places at once do to the answers?", build, order=81)
