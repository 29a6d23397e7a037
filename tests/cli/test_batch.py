"""Several prompts on one command line are one batch: each with its own text and its own accepted drafts."""

from __future__ import annotations

import json

import pytest

from workbench.cli import run_command

ALIKE = ["--max-new-tokens", "10", "--temperature", "0", "--threads", "1", "--preset", "off", "--power",
         "false", "--stop-at-eos", "false"]


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert run_command(["run", *arguments, *ALIKE, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_batch_of_different_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["def add(a, b):", "Once upon a time there was"]
    both = ran(capsys, "-p", prompts[0], "-p", prompts[1], "--decoding", "token_recycling")
    assert both["prompts"] == prompts
    texts = both["texts"]
    assert isinstance(texts, list)
    assert len(set(texts)) == 2
    assert both["metrics"]["mean_accepted_length"]["value"] > 1.0  # type: ignore[index]
    alone = ran(capsys, "-p", prompts[1])
    assert "texts" not in alone
    assert alone["text"] == texts[1]  # drafted beside another sequence, and still plain decoding's


def test_stdin_is_read_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "-p", "-", "-p", "-"]) == 2
    assert "give --prompt - once" in capsys.readouterr().err
