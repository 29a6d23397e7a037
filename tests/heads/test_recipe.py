"""The bundled heads' recipe end to end at toy size, and the bundled heads on the bundled prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench import zoo
from workbench.cli import run_command
from workbench.heads.spec import METHODS, SPEC, HeadSpec
from workbench.heads.train import Plan
from workbench.zoo.recipes import heads as recipe
from workbench.zoo.recipes import heads_table
from workbench.zoo.recipes.ngram import Successors

BUNDLED = [m for m in METHODS if (zoo.heads() / zoo.DEFAULT / m / SPEC).is_file()]


@pytest.fixture(scope="module")
def model() -> Any:
    return recipe.opened()


@pytest.fixture(scope="module")
def text(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text of a few windows; the streams are the bundled evaluation text's own tokens."""
    folder = tmp_path_factory.mktemp("work")
    ids = [i for d in zoo.evaluation_text() for i in model.tokenizer(d.text, verbose=False)["input_ids"]]
    for name in recipe.MIX:
        np.save(folder / f"{name}.npy", np.array(ids, np.uint16))
    return recipe.make_text(folder, folder, model, many=10, held=4, new=16)


@pytest.mark.parametrize("method", ["medusa", "eagle"])
def test_the_recipe_makes_a_head_with_a_card(model: Any, text: Path, tmp_path: Path, method: str) -> None:
    out = recipe.build(method, text, tmp_path / method, model, plan=Plan(steps=3, batch=4, warmup=1))
    spec = HeadSpec.read(out)
    assert spec.provenance["plan"]["steps"] == 3
    assert len(spec.hits) == len(spec.provenance["baseline"]) == spec.steps
    assert all(0 <= sum(row) <= 1 for row in spec.hits)
    card = (out / "README.md").read_text()
    assert f"# {method} head of `wb-14m`" in card
    assert f"| 1 | {spec.hits[0][0]:.3f} |" in card
    log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 3


def test_text_is_made_once(model: Any, text: Path) -> None:
    before = (text / "train.npy").stat().st_mtime_ns
    assert recipe.make_text(text.parent, text.parent, model, many=99) == text
    assert (text / "train.npy").stat().st_mtime_ns == before
    assert recipe.read(text, "train").shape == (10, recipe.PROMPT + 16)


def test_held_out_prompts_come_from_documents_that_were_held_out(model: Any) -> None:
    rows = recipe.held_out(model.tokenizer, 6)
    documents = ["".join(d.text.split()) for d in zoo.evaluation_text(stdlib=True)]
    for row in rows:
        piece = "".join(model.tokenizer.decode(row[2:-2]).split())
        assert any(piece in d for d in documents)


def test_successors_are_the_most_frequent() -> None:
    rows = np.array([[1, 2, 3, 1, 2, 3, 1, 2, 4], [7, 2, 5, 7, 2, 5, 7, 2, 5]])
    counted = Successors(rows)
    first, second = np.array([1, 7, 9, 9]), np.array([2, 2, 1, 8])
    assert counted.next(first, second).tolist() == [3, 5, 2, 2]  # pair, pair, one token, none


def test_a_baseline_that_must_be_right() -> None:
    """Text with a period of three: a trigram is always right, told or not."""
    rows = torch.arange(30).remainder(3).repeat(4, 1)
    assert recipe.baseline(rows, rows, 3, True) == [1.0] * 3
    assert recipe.baseline(rows, rows, 3, False) == [1.0] * 3
    other = torch.randint(3, 90, (4, 30), generator=torch.Generator().manual_seed(0))
    assert max(recipe.baseline(rows, other, 3, False)) < 0.2


@pytest.mark.parametrize("method", BUNDLED)
def test_bundled_heads_are_right_more_often_than_a_drafter_without_training(model: Any, method: str) -> None:
    """Greedy text equals plain text, and drafts are accepted as the card says (within noise of numerics)."""
    settings = model.settings.with_({"limits.max_new_tokens": 32, "telemetry.preset": "off"})
    tokens = forwards = 0
    for prompt in zoo.prompts()[::3]:
        plain = model.generate([prompt.text], settings, lambda e: None, lambda: False)
        drafted = settings.with_({"decoding": {"name": method, "fallback": False}})
        found = model.generate([prompt.text], drafted, lambda e: None, lambda: False)
        assert found.tokens == plain.tokens
        tokens, forwards = tokens + len(found.tokens[0]) - 1, forwards + found.forwards - 1
    assert tokens / forwards > 1.2


def test_the_table_is_in_every_card() -> None:
    found = json.loads((zoo.heads() / zoo.DEFAULT / "accepted.json").read_text())
    assert list(found["methods"]) == BUNDLED
    for method in BUNDLED:
        card = (zoo.heads() / zoo.DEFAULT / method / "README.md").read_text()
        assert heads_table.table(found, method).strip() in card
        assert found["methods"][method]["same_text"] == f"{found['prompts']} of {found['prompts']}"


def test_the_command_lists_and_trains(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    assert run_command(["heads", "train", "bundled", "--method", "medusa", "--steps", "2", "--windows", "16",
                        "--new", "8", "--batch", "4", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert Path(made["path"]) == tmp_path / "heads" / "wb-14m" / "medusa"
    assert run_command(["heads", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"bundled", "trained here"} == {r["where"] for r in rows}
    assert {r["method"] for r in rows if r["where"] == "bundled"} == {*BUNDLED, "lud"}
    assert run_command(["heads", "list"]) == 0
    assert "wb-14m" in capsys.readouterr().out
    assert run_command(["heads", "train", "bundled", "--method", "hydra"]) == 2
    assert "choose one of medusa" in capsys.readouterr().err
