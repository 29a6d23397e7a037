"""The contract of the catalogue: every technique file, generated tests from its metadata."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import workbench.techniques as package
from workbench.errors import SettingsError
from workbench.settings import Settings
from workbench.settings.tree import FAMILIES, schema
from workbench.techniques.base import Control, Technique, all_techniques, families, family, parse

EVERY = all_techniques()
KNOBS = [(t, k) for t in EVERY for k in t.controls()]
FOLDER = Path(package.__path__[0])


def named(item: Any) -> str:
    return f"{item.family()}.{item.name()}" if isinstance(item, type) else getattr(item, "name", "")


def test_a_file_is_a_technique() -> None:
    for name in families():
        files = {p.stem for p in (FOLDER / name).glob("*.py") if not p.stem.startswith("_")}
        assert set(family(name)) == files
        assert files, f"family {name} is empty"


@pytest.mark.parametrize("technique", EVERY, ids=named)
def test_one_final_class_per_file(technique: type[Technique]) -> None:
    path = FOLDER / technique.family() / f"{technique.name()}.py"
    tree = ast.parse(path.read_text())
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    bases = {ast.unparse(b) for b in classes[technique.__name__].bases}
    assert len(bases) == 1
    others = [n for n in classes if n != technique.__name__]
    assert not any(technique.__name__ in {ast.unparse(b) for b in classes[n].bases} for n in others)
    assert not technique.__subclasses__()


@pytest.mark.parametrize("technique", EVERY, ids=named)
def test_metadata_is_there(technique: type[Technique]) -> None:
    assert technique.title
    assert 10 < len(technique.summary()) < 160
    assert technique.summary() == technique.summary().strip()
    assert technique.paper.cite
    if technique.paper.arxiv:
        assert technique.paper.url.startswith("https://arxiv.org/abs/")
    assert isinstance(technique.lossless, bool)
    known = {f"{t.family()}/{t.name()}" for t in EVERY}
    assert set(technique.excludes) <= known


@pytest.mark.parametrize("technique", EVERY, ids=named)
def test_frozen_comparable_and_json(technique: type[Technique]) -> None:
    one = technique()
    assert one == technique()
    assert hash(one) == hash(technique())
    with pytest.raises(AttributeError):
        one.anything = 1  # type: ignore[attr-defined]
    assert parse(one.family(), json.loads(json.dumps(one.to_dict()))) == one
    assert parse(one.family(), str(one)) == one
    assert parse(one.family(), one.name()) == one
    with pytest.raises(SettingsError, match="no_such_control"):
        one.replace(no_such_control=1)


def inside(knob: Control) -> list[Any]:
    """Values that must be accepted: both ends, or every choice."""
    if knob.choices is not None:
        return list(knob.choices)
    if knob.type is bool:
        return [True, False]
    if knob.type is str:
        return [knob.default]
    return [v for v in (knob.low, knob.high) if v is not None]


@pytest.mark.parametrize(("technique", "knob"), KNOBS, ids=named)
def test_both_ends_of_a_control_and_its_json(technique: type[Technique], knob: Control) -> None:
    assert knob.help
    assert knob.default in inside(knob) or knob.choices is None
    for value in inside(knob):
        one = technique().replace(**{knob.name: value})
        assert getattr(one, knob.name) == value
        assert parse(one.family(), json.loads(json.dumps(one.to_dict()))) == one
        assert parse(one.family(), str(one)) == one
        assert one.replace(**{knob.name: str(value)}) == one


@pytest.mark.parametrize(("technique", "knob"), KNOBS, ids=named)
def test_beyond_a_control_is_refused_with_name_and_range(technique: type[Technique], knob: Control
                                                         ) -> None:
    if knob.type is str and knob.choices is None:
        return
    wrong: list[Any] = ["nonsense"]
    if knob.choices is None and knob.type is not bool:
        wrong += [v for v in (None if knob.low is None else knob.low - 1,
                              None if knob.high is None else knob.high + 1) if v is not None]
    for value in wrong:
        with pytest.raises(SettingsError) as caught:
            technique().replace(**{knob.name: value})
        text = str(caught.value)
        assert knob.name in text
        assert "\n" not in text
        if value != "nonsense":
            assert "valid" in text


def test_the_catalogue_loads_without_torch() -> None:
    """In a fresh interpreter: importing every technique imports nothing heavy."""
    code = ("import sys; from workbench.techniques.base import all_techniques; all_techniques(); "
            "from workbench.settings import Settings; Settings(); "
            "bad = {'torch', 'transformers', 'triton', 'polars', 'plotly'} & set(sys.modules); "
            "sys.exit(f'imported {sorted(bad)}' if bad else 0)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_heavy_import_at_module_level() -> None:
    heavy = {"torch", "transformers", "triton", "numpy", "safetensors"}
    for name in families():
        for module in pkgutil.iter_modules([str(FOLDER / name)]):
            tree = ast.parse((FOLDER / name / f"{module.name}.py").read_text())
            for node in tree.body:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
                assert not heavy & {n.split(".")[0] for n in names}, module.name
                assert not any(n.startswith(("workbench.runtime", "workbench.kernels"))
                               for n in names), module.name


@pytest.mark.parametrize("technique", EVERY, ids=named)
def test_settings_carry_it(technique: type[Technique]) -> None:
    field = next(f for f, (folder, _) in FAMILIES.items() if folder == technique.family())
    settings = Settings().with_({field: technique.name()})
    assert Settings.from_json(settings.to_json()) == settings
    assert Settings.from_yaml(settings.to_yaml()) == settings
    assert settings.flat()[field] == technique.name()
    titles = [o["title"] for o in schema()["properties"][field]["oneOf"]]
    assert technique.name() in titles
    for knob in technique.controls():
        view = next(v for v in settings.controls() if v.path == f"{field}.{knob.name}")
        assert view.help == knob.help


@pytest.mark.parametrize("name", list(FAMILIES))
def test_an_unknown_name_lists_the_valid_ones(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings().with_({name: "nonsense"})
    for member in family(FAMILIES[name][0]):
        assert member in str(caught.value)
