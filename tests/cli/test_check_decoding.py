"""``check-decoding`` and ``bench draft`` on the bundled model."""

from __future__ import annotations

import json

import pytest

from workbench.cli import run_command


def test_a_lossless_method_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check-decoding", "--decoding", "token_recycling", "--kinds", "math,edit", "--each",
                        "1", "-n", "16", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["bugs"] == 0
    assert [t["places"] for t in data["texts"]] == [16, 16]


def test_a_bug_ends_with_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A verification that keeps whatever was drafted."""
    from workbench.runtime import speculation

    def gullible(proposal, logits, position, sampler):  # type: ignore[no-untyped-def]
        tokens = proposal.tokens[:1]
        return list(range(len(tokens) + 1)), [*tokens, int(logits[len(tokens)].argmax())]

    monkeypatch.setattr(speculation, "walk", gullible)
    assert run_command(["check-decoding", "--decoding", "jacobi", "--kinds", "math", "--each", "1",
                        "-n", "12"]) == 1
    said = capsys.readouterr()
    assert "real bugs" in said.out
    assert "no near-ties" in said.err


def test_a_recorded_run_is_checked_and_its_panel_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from workbench.panels import panel
    from workbench.session import open as open_session

    with open_session("bundled", **{"limits.max_new_tokens": 16, "telemetry.power": False}) as session:
        run = session.run("def f(x):", decoding="prompt_lookup", wait=True)
        assert run_command(["check-decoding", run.id, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["texts"][0]["exact"]
        if any(e.drafted for e in run.events if type(e).__name__ == "Draft"):
            assert any("plain target's own" in s for s in panel("speculation").content(run).sentences)


@pytest.mark.parametrize(("arguments", "says"), [
    (["check-decoding"], "name a method"), (["check-decoding", "--decoding", "nothing"], "nothing"),
    (["bench", "draft", "--kinds", "poems"], "poems")])
def test_bad_values_are_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_search_prints_its_ranking_and_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "draft", "--kinds", "edit", "--methods", "prompt_lookup,jacobi",
                        "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {p["decoding"] for p in data["places"]} == {"prompt_lookup", "jacobi"}
    assert data["best"]["decoding"] in ("prompt_lookup", "jacobi", "plain")
    assert data["plain_tok_per_s"] > 0
