"""Tasks of lm-eval that are stopped, mistaken, too long for the model, or asked for by the command."""

from __future__ import annotations

import importlib.util
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.quality.lm_eval_data import CHOICE, measure, needs, write
from workbench import zoo
from workbench.errors import Cancelled, MissingDependency, SettingsError
from workbench.quality.lm_eval import Task


def test_without_lm_eval_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    before = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "lm_eval" else before(n, *a))
    with pytest.raises(MissingDependency, match=r"pip install 'inference-workbench\[lm-eval\]'"):
        Task("arc_easy")


@needs
def test_a_stopped_task_goes_on(model: Any, folder: Path, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.quality.lm_eval_scoring import Scorer

    task, journal = Task("wb_choice", folder=folder), tmp_path / "deep" / "task"
    whole, _ = measure(task, model)
    answered = 0
    before = Scorer.score

    def counted(self: Scorer, *args: Any) -> Any:
        nonlocal answered
        answered += 1
        return before(self, *args)

    monkeypatch.setattr(Scorer, "score", counted)
    with pytest.raises(Cancelled, match="9 responses are kept"):
        measure(task, model, journal=journal, cancelled=lambda: answered >= 10)
    assert len(journal.read_text().splitlines()) == 10
    with journal.open("a") as file:
        file.write('["half a li')
    answered = 0
    again, _ = measure(task, model, journal=journal)
    assert answered == 36 - 9
    assert again == whole
    assert not journal.exists()


@needs
def test_what_the_models_positions_took_away_is_said(model: Any, folder: Path, tmp_path: Path) -> None:
    """Also of responses that were kept from a stopped evaluation."""
    texts = "".join(d.text.replace("\n", " ") for d in zoo.evaluation_text())
    rows = [{"question": texts[i:i + (9000 if i < 2 else 50)].strip(), "choices": ["one", "two"], "answer": 0}
            for i in range(5)]
    write(tmp_path / "long.jsonl", rows)
    (tmp_path / "long.yaml").write_text(CHOICE.format(data=tmp_path / "long.jsonl"))
    task, journal = Task("wb_choice", folder=tmp_path), tmp_path / "journal"
    seen: list[Any] = []
    with pytest.raises(Cancelled):
        task.measure(model, model.settings, seen.append, lambda: len(seen) > 12, journal=journal)
    scores, _ = measure(task, model, journal=journal)
    assert scores[0].note == (f"4 requests were longer than the model's {model.forward.max_positions} "
                              "positions and lost their beginning")
    assert measure(Task("wb_choice", folder=folder), model)[0][0].note == ""


@needs
def test_mistakes_are_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="limit=0 is too small"):
        Task("wb_choice", limit=0)
    with pytest.raises(SettingsError, match="there is no task file"):
        Task(str(folder / "absent.yaml")).open()
    with pytest.raises(SettingsError, match="is not a folder"):
        Task("wb_choice", folder=folder / "absent").open()
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match="the data of wb_lost is not on this machine"):
        Task("wb_lost", folder=folder).open()
    (tmp_path / "unsafe.yaml").write_text(CHOICE.format(data=folder / "choice.jsonl").replace(
        "wb_choice", "wb_unsafe") + "unsafe_code: true\n")
    with pytest.raises(SettingsError, match="wb_unsafe runs code"):
        Task("wb_unsafe", folder=tmp_path).open()
    (tmp_path / "broken.yaml").write_text("task: wb_broken\noutput_type: nonsense\ndataset_path: json\n")
    with pytest.raises(SettingsError, match=r"wb_broken cannot be (opened|evaluated)"):
        Task("wb_broken", folder=tmp_path).open()


@needs
def test_an_unknown_task_names_its_neighbours(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"did you mean .*arc_easy"):
        Task("arc_eazy", folder=folder).open()


@needs
def test_the_command_puts_it_beside_the_other_figures(folder: Path, capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.cli import run_command

    base = ["evaluate", "int4(group=128)", "-m", "wb-1m", "--tasks", "0", "--threads", "1"]
    extra = ["--task", "lm_eval:wb_choice", "--task-folder", str(folder), "--limit", "6"]
    assert run_command([*base, *extra, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [r["scheme"] for r in rows] == ["bf16", "int4(group=128)"]
    scores = [next(iter(r["scores"].values())) for r in rows]
    assert [[s["metric"] for s in row] for row in scores] == [["acc", "acc_norm"]] * 2
    assert all(s["count"] == 6 and s["original"] == 12 and s["version"] == "1.5" for r in scores for s in r)
    assert "4" in scores[1][0]["weights"]
    assert "4" not in scores[0][0]["weights"].split(" matrices", 1)[1]
    with monkeypatch.context() as patch:  # both rows are kept: nothing is opened again
        patch.setattr("workbench.backends.open_model", None)
        assert run_command([*base, *extra]) == 0
    shown = capsys.readouterr().out
    assert "wb_choice acc" in " ".join(shown.split())
    assert f"{scores[1][0]['value']:.3g} ± {scores[1][0]['se']:.2g}" in shown
    apart = statistics.fmean([b - a for a, b in zip(*(r[0]["values"] for r in scores), strict=True)])
    assert f"({apart:+.2g} ± " in " ".join(shown.split())
    assert "wb_choice: 6 of 12 documents, version 1.5, 0 examples, lm-eval" in shown


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    from workbench.cli import run_command

    assert run_command(["evaluate", "-m", "wb-1m", "--limit", "5"]) == 2
    assert "--task lm_eval:NAME" in capsys.readouterr().err
    assert run_command(["evaluate", "-m", "wb-1m", "--task", "arc_easy"]) == 2
    assert "try --task lm_eval:arc_easy" in capsys.readouterr().err
