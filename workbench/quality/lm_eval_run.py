"""One evaluation of lm-eval with a loaded model: requests, figures while they come, scores."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.errors import Cancelled, SettingsError, WorkbenchError
from workbench.events import Event, Progress, Quality
from workbench.quality.lm_eval import BOOTSTRAP, Emit, Score, sentence
from workbench.quality.lm_eval_journal import Responses
from workbench.quality.lm_eval_tasks import quietly, seeded
from workbench.settings import Settings


@dataclass
class Run:
    """``key``: what the journal is of, beside the settings."""

    model: Any
    settings: Settings
    emit: Emit
    cancelled: Callable[[], bool]
    journal: Path | None
    chat: bool
    key: str

    def scores(self, loaded: Any, limit: int | None) -> list[Score]:
        """``loaded``: lm-eval's ``TaskDict``. Raises Cancelled, SettingsError, StoreError, OutOfMemory."""
        import lm_eval
        from lm_eval.evaluator import evaluate

        from workbench.quality.lm_eval_model import WorkbenchLM

        kept = Responses(self.journal, f"{self.key}|{self.settings.to_json()}")
        outside = sys.stdout
        with quietly(), seeded():
            live = Live(loaded["tasks"], _through(self.emit, outside))
            lm = WorkbenchLM(self.model, self.settings, self.cancelled, kept, live.told)
            try:
                results = evaluate(lm=lm, task_dict=loaded, limit=limit, bootstrap_iters=BOOTSTRAP,
                                   log_samples=False, apply_chat_template=self.chat)
            except Cancelled:
                raise Cancelled("the task was cancelled" + (
                    f"; {len(kept)} responses are kept, and the same task goes on" if self.journal else "")
                ) from None
            except WorkbenchError:
                raise
            except (ValueError, KeyError, TypeError, ImportError, NotImplementedError) as error:
                raise SettingsError(f"lm-eval cannot evaluate {', '.join(loaded['tasks'])} here "
                                    f"({sentence(error)}); choose another task") from error
        found = _scores(results, loaded, lm_eval.__version__, self._weights(), _note(lm))
        found = [replace(s, values=live.values(s.name, s.value)) for s in found]
        for score in found:
            self.emit(Quality(metric=score.name, value=score.value, se=score.se, tokens=score.count))
        kept.remove()
        return found

    def _weights(self) -> str:
        """What was effective, as the model tells it."""
        known = self.model.effective().get("weights")
        if known is None:  # a peer tells it with its first text
            return str(self.settings.weights)
        reason = f" ({known.reason})" if known.reason else ""
        return f"{known.effective}{reason}"


def _through(emit: Emit, outside: Any) -> Emit:
    """What listens may print, though lm-eval may not."""
    def tell(event: Event) -> None:
        with contextlib.redirect_stdout(outside):
            emit(event)
    return tell


@dataclass
class Mean:
    """Of documents, which are independent draws: mean and standard error in one pass (Welford 1962)."""

    count: int = 0
    value: float = 0.0
    _squares: float = 0.0
    #: (document, value) as they came.
    values: list[tuple[int, float]] = field(default_factory=list)

    def add(self, document: int, value: float) -> None:
        self.values.append((document, value))
        self.count += 1
        step = value - self.value
        self.value += step / self.count
        self._squares += step * (value - self.value)

    @property
    def se(self) -> float | None:
        """None for fewer than two."""
        return math.sqrt(self._squares / (self.count - 1) / self.count) if self.count > 1 else None


@dataclass
class Live:
    """Figures while responses come: a document is judged by its task as soon as all its requests are
    answered. Only of tasks whose responses are used as they are; the others show progress alone."""

    tasks: dict[str, Any]
    emit: Emit
    _waiting: dict[tuple[str, int], list[tuple[int, Any]]] = field(default_factory=dict)
    _expected: dict[tuple[str, int], int] = field(default_factory=dict)
    _means: dict[str, Mean] = field(default_factory=dict)
    _done: int = 0
    _total: int = 0

    def told(self, request: Any, response: Any) -> None:
        if not self._total:
            self._count()
        self._done += 1
        self.emit(Progress(what=str(request.task_name), done=self._done, total=self._total))
        place = (str(request.task_name), int(request.doc_id))
        answers = self._waiting.setdefault(place, [])
        answers.append((request.idx, response))
        if len(answers) == self._expected.get(place):
            self._judge(place, request.doc, self._waiting.pop(place))

    def _count(self) -> None:
        """The tasks have their requests now."""
        for task in self.tasks.values():
            for one in task.instances:
                self._total += one.repeats or 1
                place = (str(one.task_name), int(one.doc_id))
                self._expected[place] = self._expected.get(place, 0) + 1

    def _judge(self, place: tuple[str, int], doc: Any, answers: list[tuple[int, Any]]) -> None:
        task = self._task(place[0])
        if task is None or not _plain(task):
            return
        try:
            metrics = task.process_results(doc, [r for _, r in sorted(answers, key=lambda a: a[0])])
        except Exception:  # a partial figure only: lm-eval says what is wrong when it judges all of them
            return
        for name, value in metrics.items():
            if isinstance(value, bool | int | float) and _averaged(task, name):
                mean = self._means.setdefault(f"{place[0]} {name}", Mean())
                mean.add(place[1], float(value))
                self.emit(Quality(metric=f"{place[0]} {name}", value=mean.value, se=mean.se,
                                  tokens=mean.count, done=False))

    def values(self, name: str, value: float) -> list[float]:
        """Of every document, if ``value`` is their mean."""
        mean = self._means.get(name, Mean())
        same = mean.count > 0 and math.isclose(mean.value, value, rel_tol=1e-9, abs_tol=1e-12)
        return [v for _, v in sorted(mean.values)] if same else []

    def _task(self, name: str) -> Any:
        return self.tasks.get(name) or next(
            (t for t in self.tasks.values() if t.config.task == name), None)


def _plain(task: Any) -> bool:
    """Whether each request is answered once and lm-eval takes the answer as it is."""
    filters = getattr(task, "_filters", [])
    return all(i.repeats in (None, 1) for i in task.instances[:1]) and len(filters) == 1 \
        and filters[0].name == "none"


def _averaged(task: Any, metric: str) -> bool:
    return getattr(task.aggregation().get(metric), "__name__", "") == "mean"


def _note(lm: Any) -> str:
    """What the model's positions took away."""
    cut = lm.scorer.cut + lm.answerer.cut_prompts
    parts = []
    if cut:
        parts.append(f"{cut} requests were longer than the model's {lm.scorer.most} positions and lost "
                     "their beginning")
    if lm.answerer.shortened:
        parts.append(f"{lm.answerer.shortened} texts had half of the model's positions, less than the task "
                     "gives them")
    return "; ".join(parts)


def _scores(results: Any, loaded: Any, library: str, weights: str, note: str) -> list[Score]:
    """lm-eval's ``EvalResults`` -> rows: what was asked for first, members of groups behind it."""
    members = {m: g for g, names in results["group_subtasks"].items() for m in names}
    found = []
    for name, figures in results["results"].items():
        for key, value in figures.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            se = figures.get(f"{metric}_stderr,{kind}")
            samples = _samples(results, name)
            found.append(Score(
                task=name, metric=metric, filter=kind, value=float(value),
                se=float(se) if isinstance(se, int | float) else None,
                count=int(figures.get("sample_len", samples[0])), original=samples[1],
                version=_version(results["versions"].get(name)),
                fewshot=_whole(results["n-shot"].get(name)),
                higher_is_better=results["higher_is_better"].get(name, {}).get(metric),
                weights=weights, library=library, within=members.get(name, ""), note=note))
    if not found:
        raise SettingsError(f"lm-eval gave no figure for {', '.join(loaded['tasks'])}; choose another task")
    return sorted(found, key=lambda s: bool(s.within))


def _samples(results: Any, name: str) -> tuple[int, int]:
    """(documents evaluated, documents there are); of a group the sum over its members."""
    own = results["n-samples"].get(name)
    if own is not None:
        return int(own["effective"]), int(own["original"])
    parts = [_samples(results, m) for m in results["group_subtasks"].get(name, ())]
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def _version(value: Any) -> str:
    """The task's version, "" where its file says none (lm-eval puts its format's name there)."""
    return "" if value is None or value == "Yaml" else str(value)


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
