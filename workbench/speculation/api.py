"""The three questions as functions: of a model's name, a loaded model, or an open session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, SettingsError
from workbench.settings import Settings
from workbench.speculation.benchmarking import Benchmark, Results, opened
from workbench.speculation.equality import Verdict
from workbench.speculation.searching import Decoder, Ranking, Search, candidates

if TYPE_CHECKING:
    from workbench.runtime.model import Model
    from workbench.zoo import Prompt

Told = Callable[[int, int, str], None]
_QUIET = {"telemetry.preset": "off", "telemetry.power": False}


def search(target: Any = "bundled", prompts: Sequence[str] | None = None, *,
           methods: Sequence[str] | None = None, settings: Settings | None = None,
           told: Told = lambda done, total, what: None,
           cancelled: Callable[[], bool] = lambda: False, remember: bool = True) -> Ranking:
    """The fastest drafting method and length for ``prompts`` on this machine.

    ``target``: a model's name, a loaded model, or an open session, whose engine then runs the generations
    (they wait for their turn beside its other runs). ``prompts``: texts like those that will be decoded;
    without any, one of every bundled kind. ``remember``: the panel "Does speculation pay?" shows the result
    for this model from then on. Raises SettingsError, ModelError, OutOfMemory, Cancelled."""
    from workbench.analysis import speculation_found
    from workbench.machine import this_machine

    if hasattr(target, "run") and hasattr(target, "store"):
        base = (settings or target.settings).with_(_QUIET)
        return _search(_through(target, cancelled), base, target.shape, prompts, methods, told, remember,
                       speculation_found, this_machine())
    with _opened(target, settings) as (model, base):
        from workbench.speculation.measuring import decode

        def run(chosen: Settings, texts: Sequence[str]) -> Any:
            return decode(model, chosen, texts, cancelled)

        return _search(run, base, model.shape, prompts, methods, told, remember, speculation_found,
                       this_machine())


def _search(decode: Decoder, base: Settings, shape: Any, prompts: Sequence[str] | None,
            methods: Sequence[str] | None, told: Told, remember: bool, kept: Any, machine: Any) -> Ranking:
    skipped: dict[str, str] = {}
    if methods is None:
        methods, skipped = candidates(base, shape, machine)
    found = Search(decode, base, methods, prompts or _some(), told=told)
    found.skipped.update(skipped)
    ranking = found.run()
    if remember and ranking.places:
        kept.remember(base, ranking.to_dict())
    return ranking


def check(target: Any = "bundled", prompts: Sequence[str] | None = None, *, settings: Settings | None = None,
          cancelled: Callable[[], bool] = lambda: False, told: Told = lambda done, total, what: None,
          **changes: Any) -> list[Verdict]:
    """Decode every prompt with the settings' method and compare with the plain target: one verdict each.

    ``changes`` are settings, as ``decoding="token_recycling"``."""
    from workbench.speculation import equality
    from workbench.speculation.measuring import decode

    with _opened(target, settings, **changes) as (model, base):
        if not base.decoding.lossless:
            raise SettingsError(f"{base.decoding.name()} does not promise the target's own text, so there is "
                                "nothing to check; choose a lossless method")
        found = []
        texts = list(prompts or _some())
        for number, text in enumerate(texts):
            told(number, len(texts), "checking")
            output = decode(model, base, [text], cancelled).ids[0]
            found.append(equality.check(model, text, output, base, 0, cancelled))
        return found


def check_run(run: Any, *, cancelled: Callable[[], bool] = lambda: False,
              told: Told = lambda done, total, what: None) -> list[Verdict]:
    """The same for a recorded run: one verdict per sequence, kept for the panel "Speculation". The run's
    model is loaded with the run's settings."""
    from workbench import events as ev
    from workbench.analysis import speculation_found
    from workbench.speculation import equality

    settings = run.requested
    if not settings.decoding.lossless:
        raise SettingsError(f"{settings.decoding.name()} does not promise the target's own text, so there is "
                            "nothing to check; choose a run of a lossless method")
    outputs: list[list[int]] = [[] for _ in run.prompts]
    for event in run.events:
        if isinstance(event, ev.Token):
            outputs[event.sequence].append(event.id)
    if not any(outputs):
        raise SettingsError(f"run {run.id} has no tokens to check; choose one that generated some")
    with _opened(settings.model.source, settings) as (model, base):
        found = []
        for sequence, (prompt, output) in enumerate(zip(run.prompts, outputs, strict=True)):
            told(sequence, len(outputs), "checking")
            found.append(equality.check(model, prompt, output, base, sequence, cancelled))
    speculation_found.remember_verdict(run.id, [v.to_dict() for v in found])
    return found


def benchmark(target: Any = "bundled", methods: Sequence[str] = (), *,
              prompts: Mapping[str, Sequence[Prompt]] | None = None, settings: Settings | None = None,
              repeats: int = 2, state: Path | None = None, told: Told = lambda done, total, what: None,
              cancelled: Callable[[], bool] = lambda: False, **changes: Any) -> Results:
    """``methods`` beside plain decoding on every kind of prompt; see ``workbench bench decoding``."""
    from workbench.speculation.prompts import bundled

    with _opened(target, settings, **changes) as (model, base):
        return Benchmark(model, base, methods, prompts or bundled(), repeats=repeats, state=state, told=told,
                         cancelled=cancelled).run()


def _some() -> list[str]:
    from workbench.speculation.prompts import bundled

    return [rows[0].text for rows in bundled(1).values()]


@contextmanager
def _opened(target: Any, settings: Settings | None, **changes: Any) -> Iterator[tuple[Model, Settings]]:
    """(the loaded model, settings without telemetry); a model that is loaded here is given back here."""
    if not isinstance(target, str | Path):
        base = (settings or target.settings).with_({**_QUIET, **changes})
        yield target, base
        return
    base = (settings or Settings()).with_({"model.source": str(target), **_QUIET, **changes})
    with opened(base) as model:
        yield model, base


def _through(session: Any, cancelled: Callable[[], bool]) -> Decoder:
    """Generations by the session's own engine; their records are not kept."""
    from workbench.speculation.measuring import alone, counted

    def run(settings: Settings, prompts: Sequence[str]) -> Any:
        if cancelled():
            raise Cancelled("the search was cancelled")
        made = session.run(list(prompts), label="search for the best draft", wait=True, settings=settings)
        try:
            if made.status != "done":
                raise SettingsError(made.error or f"the generation ended as {made.status}")
            return counted(list(made.events), len(prompts), alone(settings))
        finally:
            session.store.delete(made.id)

    return run
