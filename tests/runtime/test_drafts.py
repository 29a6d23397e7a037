"""What cannot be drafted with is refused in one sentence before anything is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from workbench import zoo
from workbench.errors import SettingsError
from workbench.runtime import drafts, load
from workbench.settings import Settings


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import workbench.runtime.model as model

    def refuse(*_: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(model, "load_model", refuse)


def refused(**changes: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(Settings().with_(changes), lambda event: None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def copy_of_the_draft(folder: Path) -> Path:
    """The bundled draft's config and tokenizer, without weights."""
    name = zoo.draft_for(zoo.DEFAULT)
    assert name
    folder.mkdir()
    for file in ("config.json", "tokenizer.json"):
        shutil.copy(Path(zoo.path(name)) / file, folder / file)
    return folder


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("method", ["draft_model", "optimal_tree"])
def test_a_draft_that_cannot_serve(tmp_path: Path, method: str) -> None:
    draft = copy_of_the_draft(tmp_path / "draft")
    config = json.loads((draft / "config.json").read_text())
    for change, words in (({"vocab_size": 9}, "vocabulary has 9 tokens"),
                          ({"num_hidden_layers": 90}, "bigger than the target")):
        (draft / "config.json").write_text(json.dumps({**config, **change}))
        assert words in refused(**{"decoding": method, "decoding.draft": str(draft)})
    assert "there is no draft model" in refused(**{
        "decoding": method, "decoding.draft": str(tmp_path / "nowhere")})


@pytest.mark.usefixtures("nothing_is_read")
def test_a_vocabulary_of_the_same_size_with_other_tokens(tmp_path: Path) -> None:
    draft = copy_of_the_draft(tmp_path / "draft")
    file = draft / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    one, other = list(vocab)[400:402]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    file.write_text(json.dumps(tokenizer))
    said = refused(**{"decoding": "draft_model", "decoding.draft": str(draft)})
    assert repr(one) in said or repr(other) in said
    assert "2 of its tokens" in said
    shutil.copy(Path(zoo.path(zoo.DEFAULT)) / "tokenizer.json", file)
    assert drafts.other_tokens(draft, "bundled") is None


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("method", ["prompt_lookup", "draft_model", "token_recycling"])
def test_drafts_past_the_last_position(method: str) -> None:
    limit = json.loads((Path(zoo.path(zoo.DEFAULT)) / "config.json").read_text())["max_position_embeddings"]
    said = refused(**{"decoding": method, "limits.max_new_tokens": limit})
    assert f"{limit} positions" in said
    assert "ahead" in said


def test_a_tokenizer_that_cannot_be_read_is_left_to_its_reader(tmp_path: Path) -> None:
    draft = copy_of_the_draft(tmp_path / "draft")
    for text in ("", "{", '{"model": {"vocab": [["a", 0.5]]}}'):
        (draft / "tokenizer.json").write_text(text)
        assert drafts.other_tokens(draft, "bundled") is None
    (draft / "tokenizer.json").unlink()
    assert drafts.other_tokens(draft, "bundled") is None
