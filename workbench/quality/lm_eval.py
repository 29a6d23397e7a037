"""Any task of lm-eval (EleutherAI's evaluation harness) on the workbench's loaded model.

    task = Task("arc_easy", limit=100)     # opens the task's data now, so that a mistake is told early
    scores = task.measure(model, settings, emit, cancelled)

lm-eval makes the requests and aggregates the metrics; the model answers them with its effective weights,
KV cache and decoding (``lm_eval_model``). Figures so far come as ``Quality`` events after every document.
"""

from __future__ import annotations

import hashlib
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import MissingDependency, SettingsError, WorkbenchError
from workbench.events import Event, Progress

if TYPE_CHECKING:
    from workbench.settings import Settings

Emit = Callable[[Event], None]
#: How a task of lm-eval is named beside the bundled ones.
PREFIX = "lm_eval:"
#: Draws for the standard error of metrics without a formula for it.
BOOTSTRAP = 1000
#: lm-eval's own seed for choosing examples.
FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class Score:
    """One metric of one task, as lm-eval aggregates it.

    ``se``: standard error, None where lm-eval has none. ``count`` of ``original`` documents; ``version``: the
    task's; ``weights``: what was effective; ``within``: the group it belongs to, "" where it was asked for
    itself. ``note``: what else must be known of it, "" where nothing. ``values``: of every document, in
    order, where the metric is their mean; else empty."""

    task: str
    metric: str
    filter: str
    value: float
    se: float | None
    count: int
    original: int
    version: str
    fewshot: int
    higher_is_better: bool | None
    weights: str
    library: str
    within: str = ""
    note: str = ""
    values: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """``TASK METRIC``, and the filter where it is not the plain one."""
        plain = self.filter in ("none", "")
        return f"{self.task} {self.metric}" + ("" if plain else f" ({self.filter})")


def paired(score: Score, reference: Score) -> tuple[float, float] | None:
    """(difference to ``reference``, its standard error), document by document.

    Both models answer the same documents, so that the error of their difference is far below what the two
    errors suggest (Miller 2024, arXiv:2411.00640, paired differences). None where there
    are no values to compare."""
    n = len(score.values)
    if n < 2 or n != len(reference.values):
        return None
    differences = [a - b for a, b in zip(score.values, reference.values, strict=True)]
    return statistics.fmean(differences), statistics.stdev(differences) / n ** 0.5


@dataclass
class Task:
    """A task, group or tag of lm-eval by ``name``, or the path of a task's YAML file.

    ``limit``: documents per task at most. ``fewshot``: examples before every question, None for the
    task's own number. ``folder``: also look for task files in it. ``chat``: write prompts with the model's
    template.

    Raises MissingDependency (lm-eval is not installed), SettingsError (no such task, its data is not on this
    machine and cannot be fetched, it needs a package or runs code)."""

    name: str
    limit: int | None = None
    fewshot: int | None = None
    folder: Path | None = None
    chat: bool = False
    _manager: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        require()
        for what, least in (("limit", 1), ("fewshot", 0)):
            given = getattr(self, what)
            if given is not None and given < least:
                raise SettingsError(f"{what}={given} is too small; take at least {least}")
        self.name = self.name.removeprefix(PREFIX)

    @property
    def key(self) -> str:
        """Equal for what gives equal scores: name, limits, version of lm-eval, the folder's files."""
        import lm_eval

        parts = [PREFIX + self.name, f"lm-eval={lm_eval.__version__}"]
        parts += [f"{n}={v}" for n in ("limit", "fewshot") if (v := getattr(self, n)) is not None]
        parts += ["chat"] if self.chat else []
        own = self.folder or (Path(self.name).parent if self._is_file() else None)
        return " ".join([*parts, *([f"files={_state(own)}"] if own else [])])

    def open(self, emit: Emit = lambda event: None) -> Any:
        """lm-eval's own tasks and groups, their data read. Fresh ones at every call."""
        from workbench.quality.lm_eval_tasks import find, load

        if self._manager is None:
            emit(Progress(what="lm-eval's tasks", done=0, detail=self.name))
            self._manager = find(self.name, self.folder)
        emit(Progress(what="task data", done=0, detail=self.name))
        return load(self._manager, self.name, self.fewshot)

    def measure(self, model: Any, settings: Settings, emit: Emit, cancelled: Callable[[], bool],
                journal: Path | str | None = None) -> list[Score]:
        """The task's scores with the loaded ``model``; the group's own first where it is one.

        ``journal``: file in which responses are kept until the task is done. Raises Cancelled, SettingsError,
        StoreError, OutOfMemory."""
        from workbench.quality.lm_eval_run import Run

        if model.shape.canvas:
            raise SettingsError("a masked-diffusion model fills places in any order and has no likelihood of "
                                "a continuation; lm-eval's tasks need a model that writes from left to right")
        loaded = self.open(emit)
        run = Run(model, settings, emit, cancelled, Path(journal) if journal else None, self.chat, self.key)
        return run.scores(loaded, self.limit)

    def _is_file(self) -> bool:
        return self.name.endswith((".yaml", ".yml"))


def require() -> None:
    """Raises MissingDependency where lm-eval cannot be imported."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingDependency("tasks of lm-eval need the lm-eval package; install it with "
                                "pip install 'inference-workbench[lm-eval]'")


def scores_from(rows: list[dict[str, Any]]) -> list[Score]:
    """What ``asdict`` made of scores."""
    return [Score(**row) for row in rows]


def _state(folder: Path) -> str:
    """Changes when a file beside the task's YAML changes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())[:10_000]
    text = "|".join(f"{p.relative_to(folder)}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def sentence(error: BaseException) -> str:
    """The first line of ``error``, for the end of a sentence of ours."""
    if isinstance(error, WorkbenchError):
        return str(error)
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
