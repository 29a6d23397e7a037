"""The speculation lab's panels on real runs of the bundled pair, while they go on and afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workbench.panels import panel, plain
from workbench.session import Session
from workbench.session import open as open_session
from workbench.store import Run, Store


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with open_session("bundled", store=Store(tmp_path_factory.mktemp("runs")), **{
            "limits.max_new_tokens": 48, "telemetry.preset": "off", "telemetry.power": False}) as found:
        yield found


@pytest.fixture(scope="module")
def drafted(session: Session) -> Run:
    return session.run("def count_words(text):\n    counts = {}\n", decoding="token_recycling", wait=True)


@pytest.fixture(scope="module")
def plainly(session: Session) -> Run:
    return session.run("def count_words(text):\n    counts = {}\n", decoding="plain", wait=True)


def test_the_ribbon_is_the_text(drafted: Run) -> None:
    """Kept and own tokens of all steps, in order, are exactly what the run wrote."""
    from workbench.analysis.speculation import ribbon

    steps = ribbon(list(drafted.events))
    assert "".join(s.text for s in steps) == drafted.text
    assert any(c.state == "accepted" for s in steps for c in s.cells)
    assert any(c.state == "rejected" for s in steps for c in s.cells)


def test_the_ribbon_panel_draws_and_counts(drafted: Run, plainly: Run) -> None:
    content = panel("speculation").content(drafted, plainly)
    assert not content.empty
    [figure] = content.figures
    heat = figure["data"][0]
    assert {v for line in heat["z"] for v in line if v is not None} >= {1, 2, 3}
    mine, theirs = content.tables[0].rows
    assert mine[2] > mine[3] > 0
    assert mine[6] > 1.0 == theirs[6]
    plain(content)


def test_plain_runs_are_told_what_to_do(plainly: Run) -> None:
    assert "prompt_lookup" in panel("speculation").content(plainly).empty
