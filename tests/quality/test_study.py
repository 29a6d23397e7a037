"""The table of schemes: its rows against the evaluations they are made of, and going on after a stop."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from workbench.cli import run_command
from workbench.errors import Cancelled, SettingsError
from workbench.events import Progress, Quality
from workbench.quality import evaluate
from workbench.quality.study import WINDOW, latest, study, texts
from workbench.settings import Settings


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    patch.undo()


@pytest.fixture
def settings() -> Settings:
    return Settings().with_({"model.source": "wb-1m", "compute.threads": 1})


def test_rows_say_what_an_evaluation_of_its_own_says(settings: Settings, tmp_path: Path) -> None:
    from workbench.runtime import load

    seen: list[Any] = []
    rows = list(study(settings, ["int4", "int8"], seen.append, lambda: False, tasks=0, keep=tmp_path / "s"))
    assert [r.scheme for r in rows] == ["bf16", "int4", "int8"]
    model = load(settings.with_(weights="int4"), lambda e: None)
    try:
        alone = evaluate(model, texts("quick"), lambda e: None, lambda: False, window=WINDOW,
                         reference=tmp_path / "s" / "reference.npy")
        assert rows[1].nbytes == sum(p.nbytes for p in model.loaded.packed.values())
    finally:
        model.close()
    assert rows[1].perplexity == pytest.approx(alone.perplexity, rel=1e-9)
    assert rows[1].kl_mean == pytest.approx(alone.kl_mean, rel=1e-9)
    assert rows[0].kl_mean is None
    assert rows[0].divergence is None
    assert (rows[2].kl_mean or 0) < (rows[1].kl_mean or 0)
    assert rows[0].bits == 16
    assert set(latest(seen)) == {"perplexity", "kl_mean", "kl_median", "kl_p99", "top1"}


def test_the_first_estimate_holds_what_the_last_one_says(settings: Settings, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial figures of shuffled windows lie within a few of their own errors of the final ones."""
    monkeypatch.setattr("workbench.quality.evaluation._PARTIAL_EVERY_S", 0.0)
    seen: list[Any] = []
    list(study(settings, ["int4"], seen.append, lambda: False, tasks=0, keep=tmp_path))
    figures = [e for e in seen if isinstance(e, Quality) and e.metric == "kl_mean"]
    early, final = next(e for e in figures if e.tokens >= 500), figures[-1]
    assert early.tokens < final.tokens / 3
    assert early.se is not None
    assert final.se is not None
    assert final.se < early.se
    assert abs(early.value - final.value) < 5 * early.se


def test_a_stopped_study_goes_on_with_the_next_row(settings: Settings, tmp_path: Path) -> None:
    rows = study(settings, ["int8", "int4"], lambda e: None, lambda: False, tasks=0, keep=tmp_path)
    first = [next(rows), next(rows)]
    del rows
    seen: list[Any] = []
    again = list(study(settings, ["int8", "int4"], seen.append, lambda: False, tasks=0, keep=tmp_path))
    assert again[:2] == first
    assert [e.detail for e in seen if isinstance(e, Progress) and e.what == "open"] == ["int4"]
    with pytest.raises(Cancelled):
        list(study(settings, ["int4(group=32)"], lambda e: None, lambda: True, tasks=0, keep=tmp_path))


def test_another_engine_is_what_is_measured(settings: Settings, tmp_path: Path) -> None:
    """Not the native runtime under its name; what that engine does not do is said in the row."""
    peer = settings.with_({"backend": "transformers"})
    rows = list(study(peer, ["int4"], lambda e: None, lambda: False, tasks=0, keep=tmp_path / "peer"))
    native = list(study(settings, [], lambda e: None, lambda: False, tasks=0, keep=tmp_path / "native"))
    assert rows[0].perplexity == pytest.approx(native[0].perplexity, rel=0.01)
    assert "torch.nn.Linear" in rows[0].effective
    if importlib.util.find_spec("torchao") is None:
        assert "install torchao" in rows[1].effective
        assert rows[1].perplexity == pytest.approx(rows[0].perplexity, rel=1e-6)
    with pytest.raises(SettingsError, match="no counterpart"):
        list(study(peer, ["rtn(bits=3)"], lambda e: None, lambda: False, tasks=0, keep=tmp_path / "peer"))
    assert (rows[0].nbytes, rows[0].bits) == (None, None)


@dataclass(frozen=True)
class _Point:
    value: int


class _Counting:
    """A benchmark that counts how often it is measured."""

    def __init__(self, key: str) -> None:
        self.key, self.measured = key, list[str]()

    def open(self, emit: Any) -> None:
        if self.key == "broken":
            raise SettingsError("this benchmark is broken; repair it")

    def measure(self, model: Any, settings: Settings, emit: Any, cancelled: Any, journal: Any = None
                ) -> list[_Point]:
        self.measured.append(str(settings.weights))
        return [_Point(len(model.encode("one two")))]


def test_benchmarks_are_measured_once_and_mistakes_come_before_loading(
        settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*benchmarks: Any) -> list[Any]:
        return list(study(settings, ["int4"], lambda e: None, lambda: False, tasks=0, keep=tmp_path,
                          benchmarks=benchmarks))

    plain, first, second = rows(), _Counting("a"), _Counting("b")
    both = rows(first)
    assert first.measured == ["bf16", "int4"]
    assert [replace(r, scores={}) for r in both] == plain
    assert rows(first, second)[1].scores == {"a": [{"value": 2}], "b": [{"value": 2}]}
    assert (first.measured, second.measured) == (["bf16", "int4"], ["bf16", "int4"])
    monkeypatch.setattr("workbench.backends.open_model", None)
    assert rows(second)[0].scores.keys() == {"a", "b"}
    with pytest.raises(SettingsError, match="repair it"):
        rows(_Counting("broken"))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "int4(group=128)", "-m", "wb-1m", "--tasks", "8", "--threads", "1"]
    assert run_command([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [r["scheme"] for r in rows] == ["bf16", "int4(group=128)"]
    assert rows[1]["tasks"] == 8
    assert run_command(arguments) == 0
    shown = capsys.readouterr().out
    assert "int4(group=128)" in shown
    assert f"{rows[1]['kl_mean']:.3g}" in shown
    assert run_command(["evaluate", "int7", "-m", "wb-1m"]) == 2
    assert "int7" in capsys.readouterr().err


def test_bad_levels(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="quick or full"):
        next(study(settings, ["int8"], lambda e: None, lambda: False, level="some"))
