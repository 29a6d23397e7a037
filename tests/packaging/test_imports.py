"""Importing is cheap, and works where optional things are absent."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAVY = ["torch", "transformers", "polars", "plotly", "panel", "ipywidgets", "triton", "numpy"]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import workbench; print(time.perf_counter() - t)"
    best = min(float(run(code)) for _ in range(5))
    assert best < 0.3, f"import workbench took {best:.2f} s"


def test_import_loads_nothing_heavy() -> None:
    code = f"""
        import sys, workbench, workbench.settings
        workbench.settings.Settings()
        print([n for n in {HEAVY} if n in sys.modules])
    """
    assert run(code) == "[]"


@pytest.mark.parametrize("absent", [
    ["pynvml"], ["triton"], ["panel", "bokeh"], ["anywidget", "ipywidgets", "jupyterlab"]])
def test_works_without(absent: list[str]) -> None:
    """Settings, catalogue, machine, doctor: with the named packages made impossible to import."""
    code = f"""
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {absent}:
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Absent())
        import workbench
        from workbench.settings import Settings
        from workbench.machine import this_machine
        from workbench.techniques.base import all_techniques
        assert Settings().controls() and this_machine().cores and all_techniques()
        print("fine")
    """
    assert run(code) == "fine"


def test_the_public_surface_is_exactly_this() -> None:
    import workbench

    assert workbench.__all__ == ["Run", "Session", "Settings", "__version__", "open", "profile",
                                 "recorded", "replay", "runs", "trace"]
    for name in workbench.__all__:
        assert getattr(workbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        _ = workbench.frobnicate


def test_the_install_compiled_the_kernels() -> None:
    """An editable install puts the library where the checkout imports it from."""
    from workbench.kernels import native
    from workbench.kernels.native import build

    if not build.compiler():
        pytest.skip("no C++ compiler")
    assert native.available(), native.why_not()
