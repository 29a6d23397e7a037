"""A function-preserving widened copy is served by its original's heads, with the original's drafts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.heads.conftest import METHODS
from workbench.events import Draft
from workbench.heads import spec
from workbench.runtime import load


@pytest.fixture(scope="module")
def pair(opened: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(settings, model) of the small target and of a copy twice as wide with two more layers."""
    from transformers import AutoTokenizer

    from workbench import zoo
    from workbench.zoo.recipes.widen import widen

    settings, model = opened("fp32")
    folder = tmp_path_factory.mktemp("widened")
    model.loaded.model.save_pretrained(folder / "small")
    AutoTokenizer.from_pretrained(zoo.path(zoo.DEFAULT)).save_pretrained(folder / "small")
    widen(folder / "small", folder / "wide", 256, 5)
    config = json.loads((folder / "wide" / "config.json").read_text())
    assert config["widened_copy_of"]["identity_layers"]
    opened_pair = []
    for name in ("small", "wide"):
        here = settings.with_({"model.source": str(folder / name), "model.weights": "checkpoint"})
        opened_pair.append((here, load(here, lambda event: None)))
    return opened_pair[0], opened_pair[1]


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_is_drafted_for_as_its_original(pair: Any, heads: dict[str, Path], method: str) -> None:
    found = []
    for settings, model in pair:
        events: list[Any] = []
        decoding = {"name": method, "head": str(heads[method]), "fallback": False}
        changes = settings.with_({"decoding": decoding, "limits.stop_at_eos": False,
                                  "limits.max_new_tokens": 24})
        ids = model.encode
        model.encode = lambda text: [ord(c) % 250 for c in text]
        out = model.generate(["the captain said"], changes, events.append, lambda: False)
        model.encode = ids
        drafts = [(e.drafted, e.accepted, e.proposed) for e in events if isinstance(e, Draft)]
        found.append((out.tokens, drafts))
    assert found[0] == found[1]
    assert sum(drafted for drafted, _, _ in found[0][1]) > 20


def test_a_copys_heads_are_its_originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "copy").mkdir()
    config = tmp_path / "copy" / "config.json"
    config.write_text(json.dumps({"widened_copy_of": {"source": "wb-14m"}}))
    assert spec.locate("auto", "medusa", str(tmp_path / "copy")) == spec.locate("auto", "medusa", "bundled")
    config.write_text("{}")
    assert "workbench heads train" in str(spec.why_not("auto", "medusa", str(tmp_path / "copy")))
