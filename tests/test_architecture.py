"""The direction of dependencies, read from the syntax trees and compared with one table.

Paths decide, because tools that follow packages do not see the folders at the top.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = ("kernels", "widgets", "apps")

PURE = {"errors", "units", "events", "shape", "machine"}
VIEW = {"panels", "traces", "profiling", "gallery", "session", "dispatch", "evaluation", "store", "analysis",
        "charts", "export", "settings",
        "forecast", "techniques", "zoo", "lab", "energy"} | PURE
#: part -> the parts that it may import, itself always included.
MAY = {
    "kernels": set(),
    "errors": set(), "units": set(), "events": {"errors", "units"},
    "gguf": {"errors", "units"}, "formats": {"errors"},
    "shape": {"errors", "units", "gguf"}, "machine": {"errors", "units"},
    "techniques": {"sensitivity", "errors", "units", "shape", "machine", "settings", "runtime", "kernels",
                   "zoo",
                   "calibration", "formats", "heads", "structure", "events"},
    "calibration": PURE | {"formats", "runtime", "settings", "techniques", "kernels", "quantized", "zoo",
                           "zoo.recipes"},
    "settings": {"errors", "units", "shape", "machine", "techniques"},
    "zoo": {"errors", "zoo.recipes"}, "zoo.recipes": PURE | {
        "zoo", "heads", "runtime", "settings", "techniques", "diffusion"},
    "heads": PURE | {"runtime", "settings", "zoo", "calibration"},
    "structure": PURE | {"calibration", "kernels", "quality", "quantized", "runtime", "settings", "zoo",
                         "zoo.recipes"},
    "forecast": PURE | {"settings", "techniques", "energy"},
    "runtime": PURE | {"quantized", "diffusion", "formats", "gguf", "kernels", "settings", "techniques",
                       "zoo"},
    "quality": PURE | {"backends", "runtime", "settings", "techniques", "zoo", "zoo.recipes"},
    "sensitivity": PURE | {"calibration", "quality", "runtime", "settings", "techniques", "zoo"},
    "quantized": PURE | {"calibration", "kernels", "runtime", "settings", "techniques"},
    "speculation": PURE | {"analysis", "runtime", "settings", "techniques", "zoo", "zoo.recipes"},
    "telemetry": PURE | {"settings", "runtime"},
    "engine.client": {"errors", "events", "settings", "units", "machine"},
    "backends": PURE | {"runtime", "techniques", "settings", "export", "gguf"},
    "engine.worker": PURE | {"backends", "runtime", "quality", "techniques", "telemetry", "settings", "zoo"},
    "engine.remote": {"errors"},
    "gallery": {"errors"},
    "profiling": PURE | {"settings", "store", "telemetry", "runtime"},
    "fingerprint": PURE | {"settings", "runtime", "techniques", "zoo"},
    "analysis": PURE | {"settings"},
    "charts": {"analysis", "units", "events"},
    "export": PURE | {"settings", "zoo", "techniques", "gguf", "runtime"},
    "store": PURE | {"analysis", "settings"},
    "dispatch": {"errors", "events", "engine.client"},
    "waiting": {"events"},
    "evaluation": {"settings", "machine", "zoo", "engine.client", "dispatch"},
    "session": PURE | {"dispatch", "evaluation", "engine.client", "store", "forecast", "analysis",
                       "settings", "zoo", "export", "panels", "waiting"},
    "lab": {"errors", "machine"},
    "energy": PURE | {"analysis", "telemetry"},
    "diffusion": {"errors", "techniques", "zoo"},
    "traces": {"errors", "analysis", "charts", "store"},
    "panels": PURE | {"sensitivity", "analysis", "charts", "settings", "techniques", "forecast", "store",
                      "energy", "traces", "zoo"},
    "report": VIEW, "widgets": VIEW, "apps": VIEW | {"engine.client"},
    "cli": VIEW | {"structure", "heads", "calibration", "speculation", "sensitivity", "quantized", "quality",
                   "diffusion", "engine.client", "engine.remote", "report", "apps", "fingerprint"},
}
#: Views of views: the command line starts the dashboard; notebook and app offer the report.
ALSO = {("widgets", "report"), ("apps", "report"), ("cli", "kernels"),  # `doctor` looks at the native library
        ("cli", "zoo.recipes")}  # `models widen` makes a model
HEAVY = {"torch", "transformers", "triton", "polars", "plotly", "panel", "ipywidgets", "IPython",
         "bokeh", "anywidget"}
#: Parts that may import heavy packages at module level, and which.
HEAVY_ALLOWED = {
    "calibration": {"torch"}, "structure": {"torch"}, "heads": {"torch"}, "formats": {"torch"},
    "traces": {"polars"},
    "kernels": {"torch", "triton"}, "runtime": {"torch", "transformers"}, "diffusion": {"torch"},
    "quality": {"torch"}, "sensitivity": {"torch"}, "quantized": {"torch"}, "telemetry": {"torch"},
    "gallery": {"torch"}, "analysis": set(),
    "charts": set(), "zoo.recipes": {"torch", "transformers"},
    "widgets": {"ipywidgets", "plotly", "IPython", "anywidget"}, "apps": {"panel", "bokeh", "plotly"},
}


def files() -> list[Path]:
    folders = [ROOT / "workbench", *(ROOT / name for name in TOP)]
    return sorted(p for f in folders for p in f.rglob("*.py"))


def part(path: Path) -> str:
    """``workbench/engine/client.py`` -> ``engine.client``; all else of the engine is the worker's."""
    names = list(path.relative_to(ROOT).with_suffix("").parts)
    names = names[1:] if names[0] == "workbench" else names
    return _part(names)


def _part(names: list[str]) -> str:
    if not names or names == ["__init__"]:
        return "root"
    if names[:2] == ["zoo", "recipes"]:
        return "zoo.recipes"
    if names[0] == "engine":
        return engine_part(names[1] if len(names) > 1 else "__init__")
    return names[0]


def engine_part(module: str) -> str:
    """What the client side needs is the client; what needs a model is the worker."""
    shared = {"client", "wire", "__init__", "process", "ticket", "keys"}
    if module == "remote":
        return "engine.remote"
    return "engine.client" if module in shared else "engine.worker"


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted name of ours or of a package, is it at module level)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {id(n) for node in ast.walk(tree) if isinstance(node, ast.If)
                   and "TYPE_CHECKING" in ast.unparse(node.test) for n in ast.walk(node)}
    inner = {id(n) for node in ast.walk(tree)
             if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import; write the full name"
            module = node.module or ""
            names = [f"{module}.{a.name}" if module in ("workbench", "workbench.engine") else module
                     for a in node.names]
        else:
            continue
        found += [(name, id(node) not in inner) for name in names]
    return found


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    here = part(path)
    if here == "root" or path.name == "__main__.py":
        return
    assert here in MAY, f"{here} is new: give it a row in ARCHITECTURE.md and here"
    for name, _ in imports(path):
        if not name.startswith("workbench."):
            continue
        there = _part(name.split(".")[1:])
        allowed = there == here or there in MAY[here] or (here, there) in ALSO or there == "root"
        if name.startswith("workbench.engine.") and here.startswith("engine"):
            allowed = allowed or here != "engine.client" or there == "engine.client"
        assert allowed, f"{path.relative_to(ROOT)} imports {name}: {here} may not import {there}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_are_imported_where_they_are_needed(path: Path) -> None:
    here = part(path)
    if here == "engine.worker" or "triton" in path.stem:
        return
    allowed = HEAVY_ALLOWED.get(here, set())
    for name, top in imports(path):
        package = name.partition(".")[0]
        assert not (top and package in HEAVY - allowed), (
            f"{path.relative_to(ROOT)} imports {package} at module level; import it in a function")


def test_every_module_has_a_docstring() -> None:
    missing = [str(p.relative_to(ROOT)) for p in files()
               if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))]
    assert not missing, f"modules without a docstring: {missing}"


def test_the_folders_that_import_under_workbench_are_bare() -> None:
    """transformers probes for a package named ``kernels``; a folder without __init__ never wins."""
    assert [n for n in TOP if (ROOT / n / "__init__.py").exists()] == []
    assert [str(p) for p in ROOT.glob("*/triton") if p.is_dir()] == []
    assert [str(p) for p in (ROOT / "kernels").rglob("triton") if p.is_dir()] == []
