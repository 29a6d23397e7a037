"""Streaming text: pieces join to the whole, and no character is ever cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.runtime.detokenize import Stream
from workbench.runtime.tokens import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer(300)


@given(st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_bytes_join_to_the_text(tokenizer: Any, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = tokenizer(text)["input_ids"]
    stream = Stream(tokenizer)
    pieces = [stream.push(i) for i in ids]
    if "\ufffd" not in text:
        assert not any("\ufffd" in p for p in pieces)
    assert "".join(pieces) + stream.rest() == tokenizer.decode(ids)


def test_a_character_of_four_bytes_arrives_whole(tokenizer: Any) -> None:
    ids = tokenizer("a😀b")["input_ids"]
    stream = Stream(tokenizer)
    assert [stream.push(i) for i in ids] == ["a", "", "", "", "😀", "b"]


def test_an_open_character_at_the_end_is_shown_once(tokenizer: Any) -> None:
    stream = Stream(tokenizer)
    ids = tokenizer("é")["input_ids"]
    assert stream.push(ids[0]) == ""
    assert stream.rest() == "\ufffd"


def test_prompt_context_is_not_repeated(tokenizer: Any) -> None:
    prompt = tokenizer("hello")["input_ids"]
    stream = Stream(tokenizer, prompt)
    assert "".join(stream.push(i) for i in tokenizer(" world")["input_ids"]) == " world"


def test_long_texts_keep_a_short_window(tokenizer: Any) -> None:
    stream = Stream(tokenizer)
    text = "ab é " * 400
    out = "".join(stream.push(i) for i in tokenizer(text)["input_ids"]) + stream.rest()
    assert out == text
    assert len(stream._ids) <= 300
