"""Panels: the contract every file must keep, and how failures show."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.synthetic import kernels, plain, speculative
from workbench.errors import StoreError, WorkbenchError
from workbench.panels import Content, Panel, Table, panel, panels, say
from workbench.panels import plain as as_plain
from workbench.store import Store


@pytest.fixture
def pair(tmp_path: Any) -> tuple[Any, Any]:
    """A plain run and a speculative one, both finished."""
    from workbench.settings import Settings

    found = []
    for events, label in ((plain() + kernels(), "plain"), (speculative(), "speculative")):
        writer = Store(tmp_path).record(requested=Settings(), prompt="p", label=label)
        writer.add(events)
        writer.finish(status="done")
        found.append(writer.run)
    return found[0], found[1]


def test_keys_are_unique_and_files_are_named_after_them() -> None:
    every = panels()
    assert len({p.key for p in every}) == len(every)
    for p in every:
        assert p.build.__module__ == f"workbench.panels.{p.key}"
        assert p.question.endswith("?")


def test_every_panel_answers_every_kind_of_run(pair: tuple[Any, Any]) -> None:
    for p in panels():
        for run, base in ((pair[0], None), (pair[1], pair[0]), (pair[0], pair[0])):
            said = p.content(run, base)
            assert "could not be drawn" not in said.empty, f"{p.key}: {said.empty}"
            assert said.empty or said.sentences or said.figures or said.tables, p.key
            json.dumps(as_plain(said), allow_nan=False)


def test_a_panel_that_fails_says_so_and_harms_nothing() -> None:
    def build(run: Any, baseline: Any) -> Content:
        raise ZeroDivisionError("x")

    def refuse(run: Any, baseline: Any) -> Content:
        raise StoreError("the bundle is damaged; export it again")

    run = SimpleNamespace(id="a")
    broken = Panel("broken", "Broken", "Broken?", build)
    assert "ZeroDivisionError" in broken.content(run).empty  # type: ignore[arg-type]
    refused = Panel("broken", "Broken", "Broken?", refuse)
    assert refused.content(run).empty == "the bundle is damaged; export it again"  # type: ignore[arg-type]


def test_an_unknown_panel_names_the_known_ones() -> None:
    with pytest.raises(WorkbenchError, match="choose one of"):
        panel("nonsense")


def test_a_table_with_a_missing_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells, 2 columns"):
        Table("t", ["a", "b"], [[1]])


def test_cells() -> None:
    assert [say(x) for x in (None, 3, 0.123456, 123456.7, "x")] == ["–", "3", "0.1235", "123,457", "x"]
    said = as_plain(Content(tables=[Table("t", ["a", "b"], [["x", 1.0], ["y", None]])]))
    assert said["tables"][0]["numeric"] == [False, True]
