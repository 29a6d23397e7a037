"""The generated pages are those of the catalogue as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.export.pages import pages
from workbench.techniques.base import all_techniques


@pytest.mark.parametrize("name", list(pages()))
def test_pages_are_up_to_date(name: str, repository: Path) -> None:
    path = repository / "docs" / name
    assert path.read_text(encoding="utf-8") == pages()[name], (
        f"docs/{name} is old; run `python -m workbench.export.pages docs`")


def test_every_technique_and_control_is_described() -> None:
    text = pages()["techniques.md"]
    for technique in all_techniques():
        assert f"### {technique.name()}\n" in text
        assert technique.summary() in text
        assert all(f"| `{c.name}` |" in text for c in technique.controls())
