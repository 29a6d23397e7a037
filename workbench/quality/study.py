"""Several schemes of one model beside each other: size, quality, speed, one row each, streamed.

The untouched model comes first; its log-probabilities are written once and every scheme is compared with
them token by token. Rows are kept as they are finished, so a stopped study goes on with the next one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workbench.errors import SettingsError
from workbench.events import Event, Progress, Quality
from workbench.machine import home
from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.quality.accuracy import Accuracy
    from workbench.runtime.model import Model

Emit = Callable[[Event], None]
#: Tokens per window: small ones make a shuffled beginning a fair sample.
WINDOW = 256
_QUICK_CHARACTERS = 1200
REFERENCE = "bf16"


class Benchmark(Protocol):
    """What else can be measured of every row's loaded model (``lm_eval.Task``)."""

    @property
    def key(self) -> str:
        """Equal for what gives equal scores."""

    def open(self, emit: Emit) -> Any:
        """Tells a mistake before a model is loaded."""

    def measure(self, model: Any, settings: Settings, emit: Emit, cancelled: Callable[[], bool],
                journal: Path | str | None = None) -> Sequence[Any]:
        """Scores, each a dataclass."""


@dataclass(frozen=True)
class Row:
    """``nbytes``: the decoder's matrices as stored, ``bits`` per weight of them; None where another engine
    does not say. ``prepare_s``: loading, calibration and maps included. ``tok_per_s``: greedy decoding, None
    where it was not asked for. Errors are standard errors; figures against the reference are None for the
    reference itself. ``scores``: a benchmark's key -> its scores as dictionaries."""

    scheme: str
    effective: str
    nbytes: int | None
    bits: float | None
    prepare_s: float
    tokens: int
    perplexity: float
    perplexity_se: float | None
    kl_mean: float | None
    kl_se: float | None
    kl_median: float | None
    kl_p99: float | None
    top1: float | None
    top1_se: float | None
    accuracy: float | None = None
    accuracy_se: float | None = None
    tasks: int = 0
    divergence: int | None = None
    tok_per_s: float | None = None
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def study(settings: Settings, schemes: Sequence[str], emit: Emit, cancelled: Callable[[], bool], *,
          level: str = "quick", tasks: int = 32, speed: bool = False, text: str = "def main(",
          keep: Path | None = None, benchmarks: Sequence[Benchmark] = ()) -> Iterator[Row]:
    """One row per scheme ("int4(group=32)" ...), the reference first. ``level``: quick or full evaluation
    text. ``tasks`` 0: no accuracy. ``divergence``: index of the first greedy token of ``text``'s
    continuation (64 tokens) that differs from the reference's, None where none does. ``benchmarks``: also
    measured on every row's model; what a row has already is not measured again.

    ``keep``: folder of what a stopped study goes on from (default: in the cache). Emits ``Quality`` and
    ``Progress`` of each evaluation as it runs. Raises SettingsError, ModelError, StoreError, Cancelled."""
    if level not in ("quick", "full"):
        raise SettingsError(f"level={level!r} is not valid; choose quick or full")
    plan = [settings.with_(weights=s) for s in dict.fromkeys([REFERENCE, *schemes])]
    documents = texts(level)
    folder = keep or home() / "cache" / "studies" / study_key(plan[0], level, tasks, text)
    folder.mkdir(parents=True, exist_ok=True)
    work = _Study(folder, documents, emit, cancelled, tasks, speed, text, benchmarks)
    for one in plan:
        yield work.row(one)


def texts(level: str) -> list[str]:
    """The evaluation documents; ``quick``: the beginning of each."""
    from workbench import zoo

    documents = [d.text for d in zoo.evaluation_text()]
    return [t[:_QUICK_CHARACTERS] for t in documents] if level == "quick" else documents


def study_key(reference: Settings, level: str, tasks: int, text: str) -> str:
    """Name of what is kept of a study: another one for other settings, files of the model, or text."""
    from workbench.runtime.sources import resolve

    source = resolve(reference.model)
    state = [f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}"
             for p in sorted(source.folder.glob("*.safetensors"))]
    clean = reference.with_({"telemetry.preset": "off", "telemetry.power": False})
    whole = json.dumps([clean.to_json(), str(source.folder), state, level, tasks, text])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


@dataclass
class _Study:
    folder: Path
    documents: list[str]
    emit: Emit
    cancelled: Callable[[], bool]
    tasks: int
    speed: bool
    text: str
    benchmarks: Sequence[Benchmark] = ()

    def row(self, settings: Settings) -> Row:
        """From the folder where it is there, else measured and kept."""
        name = hashlib.sha256(settings.to_json().encode()).hexdigest()[:12]
        known = self._known(self.folder / f"{name}.json")
        missing = [b for b in self.benchmarks if known is None or b.key not in known.scores]
        if known is not None and not missing:
            return known
        return self._measured(settings, self.folder / name, known, missing)

    def _known(self, path: Path) -> Row | None:
        try:
            row = Row(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        if row.scheme == REFERENCE and not (self.folder / "reference.npy").is_file():
            return None  # the next rows are compared with it
        return None if self.speed and row.tok_per_s is None else row

    @staticmethod
    def _keep(row: Row, path: Path) -> Row:
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(asdict(row)), "utf-8")
        aside.replace(path.with_suffix(".json"))
        return row

    def _measured(self, settings: Settings, path: Path, row: Row | None, missing: Sequence[Benchmark]) -> Row:
        """``path`` without a suffix; ``row``: what is known already. One load for all that is missing."""
        from workbench.backends import open_model

        for benchmark in missing:
            benchmark.open(self.emit)
        self.emit(Progress(what="open", done=0, detail=str(settings.weights)))
        began = time.perf_counter()
        model: Model = open_model(settings, self.emit, self.cancelled)
        prepared = time.perf_counter() - began
        try:
            row = row or self._keep(self._figures(model, settings, prepared, path), path)
            for benchmark in missing:
                journal = path.with_suffix("." + hashlib.sha256(benchmark.key.encode()).hexdigest()[:8])
                scores = benchmark.measure(model, settings, self.emit, self.cancelled, journal)
                row = self._keep(replace(row, scores={**row.scores, benchmark.key: [
                    asdict(score) for score in scores]}), path)
            return row
        finally:
            model.close()

    def _figures(self, model: Model, settings: Settings, prepared: float, path: Path) -> Row:
        from workbench.quality.accuracy import accuracy
        from workbench.quality.evaluation import evaluate

        first = str(settings.weights) == REFERENCE
        reference = self.folder / "reference.npy"
        summary = evaluate(
            model, self.documents, self.emit, self.cancelled, window=WINDOW,
            **({"save": reference} if first else
               {"reference": reference, "shuffle": 0, "journal": path.with_suffix(".windows")}))
        found = accuracy(model, self.emit, self.cancelled, count=self.tasks,
                         journal=path.with_suffix(".tasks")) if self.tasks else None
        tokens, rate = self._continued(model, settings)
        return self._row(model, settings, prepared, asdict(summary), found, self._parted(tokens, first), rate)

    def _row(self, model: Any, settings: Settings, prepared: float, figures: dict[str, Any],
             found: Accuracy | None, parted: int | None, rate: float | None) -> Row:
        nbytes, bits = _size(model)
        return Row(str(settings.weights), _effective(model), nbytes, bits, prepared, **figures,
                   accuracy=found.value if found else None, accuracy_se=found.se if found else None,
                   tasks=found.count if found else 0, divergence=parted, tok_per_s=rate)

    def _continued(self, model: Any, settings: Settings) -> tuple[list[int], float | None]:
        """64 greedy tokens, and how fast, the better of two where speed was asked for."""
        changed = settings.with_({"decoding": "plain", "sampling.temperature": 0.0, "limits.batch": 1,
                                  "limits.max_new_tokens": 64, "limits.stop_at_eos": False})
        best, tokens = 0.0, list[int]()
        for _ in range(2 if self.speed else 1):
            output = model.generate([self.text], changed, lambda event: None, self.cancelled)
            tokens = output.tokens[0]
            best = max(best, len(tokens) / output.seconds if output.seconds else 0.0)
        return tokens, best if self.speed and best else None

    def _parted(self, tokens: list[int], first: bool) -> int | None:
        path = self.folder / "greedy.json"
        if first:
            path.write_text(json.dumps(tokens), "utf-8")
        known = json.loads(path.read_text("utf-8"))
        return next((i for i, (a, b) in enumerate(zip(known, tokens, strict=False)) if a != b), None)


def _size(model: Any) -> tuple[int | None, float | None]:
    """(bytes, bits per weight) of the decoder's matrices; another engine does not tell them apart."""
    packed = list(model.loaded.packed.values()) if model.loaded is not None else []
    if not packed:
        return None, None
    nbytes = sum(p.nbytes for p in packed)
    return nbytes, 8 * nbytes / max(1, sum(p.in_features * p.out_features for p in packed))


def _effective(model: Any) -> str:
    """The weights that ran, and why they are others than asked for."""
    if model.loaded is not None and "weights" in model.loaded.effective:
        return str(model.loaded.effective["weights"].effective)
    known = model.effective().get("weights")
    return "" if known is None else known.effective + (f" ({known.reason})" if known.reason else "")


def latest(seen: Sequence[Event]) -> dict[str, Quality]:
    """Metric -> its newest figure: what a live view shows while an evaluation runs."""
    return {e.metric: e for e in seen if isinstance(e, Quality)}
