"""The wheel: builds, installs into a clean environment, imports from another folder, is complete."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from check_types import build_wheel  # type: ignore[import-not-found]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it; its dependencies are borrowed through a .pth file,
    which does not execute this environment's own editable install of the project."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin" / "python"


def run(python: Path, code: str, cwd: Path) -> str:
    done = subprocess.run([python, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_and_data_file_is_in_the_wheel(wheel: Path, repository: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {n.partition("/")[0] for n in names if ".dist-info" not in n}
    assert tops == {"workbench"}, f"the wheel must ship one top-level package, not {tops}"
    tracked = subprocess.run(
        ["git", "ls-files", "workbench", "kernels", "widgets", "apps"], cwd=repository,
        capture_output=True, text=True).stdout.split("\n")
    wanted = [f for f in tracked if f and (repository / f).is_file()]
    assert len(wanted) > 20 or not tracked[0]
    missing = [f for f in wanted
               if (f if f.startswith("workbench/") else f"workbench/{f}") not in names]
    assert not missing, f"not in the wheel: {missing[:10]}"


def test_the_wheel_imports_in_a_clean_environment(python: Path, tmp_path: Path) -> None:
    code = ("import workbench, workbench.settings; from workbench import zoo;"
            "import importlib.util as u;"
            "assert u.find_spec('workbench.widgets') and u.find_spec('workbench.apps');"
            "assert u.find_spec('workbench.kernels');"
            "print(workbench.__file__); print(zoo.path(zoo.DEFAULT))")
    for line in run(python, code, tmp_path).splitlines():
        assert line.startswith(str(python.parent.parent)), f"{line} is not the wheel's"


def test_the_wheel_loads_every_technique(python: Path, tmp_path: Path) -> None:
    code = ("from workbench.techniques.base import all_techniques as a; import sys;"
            "print(len(a())); assert 'torch' not in sys.modules")
    assert int(run(python, code, tmp_path)) >= 8


def test_transformers_builds_a_model_beside_our_kernels_folder(repository: Path) -> None:
    """From the checkout's root, where ``import kernels`` could find our folder."""
    code = ("from transformers import LlamaConfig, LlamaForCausalLM as M;"
            "M(LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, vocab_size=8,"
            "num_attention_heads=1)); print('built')")
    assert run(Path(sys.executable), code, repository).endswith("built")
