"""What the tests of lm-eval share: one model, the same in transformers, tasks in files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def lm_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Nothing of lm-eval's or datasets' leaves the test's own folder."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("home")
    patch.setenv("WORKBENCH_HOME", str(folder))
    if importlib.util.find_spec("datasets"):
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def model(lm_home: Any) -> Any:
    from tests.quality.lm_eval_data import SETTINGS
    from workbench.runtime import load

    return load(SETTINGS, lambda event: None)


@pytest.fixture(scope="module")
def judge() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workbench import zoo

    folder = zoo.path("wb-1m")
    return (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def folder(lm_home: Any, tmp_path_factory: pytest.TempPathFactory, judge: Any) -> Path:
    from tests.quality.lm_eval_data import write_tasks

    return write_tasks(tmp_path_factory.mktemp("tasks"), judge)
