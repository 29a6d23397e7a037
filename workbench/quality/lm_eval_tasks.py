"""Finding and opening lm-eval's tasks, with one sentence for each way in which it can go wrong."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import MissingDependency, SettingsError
from workbench.quality.lm_eval import FEWSHOT_SEED, sentence

_LOGGERS = ("lm_eval", "datasets", "huggingface_hub", "evaluate", "absl")


def find(name: str, folder: Path | None) -> Any:
    """The ``TaskManager`` that knows ``name``. Reads lm-eval's 14,000 own names (some seconds) only where
    ``folder`` or a path does not have it. Raises SettingsError, MissingDependency."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingDependency(f"lm-eval is installed but cannot be imported ({sentence(error)}); install "
                                "it again with pip install 'inference-workbench[lm-eval]'") from None
    if folder is not None and not folder.is_dir():
        raise SettingsError(f"{folder} is not a folder; give the one with the task's YAML files")
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise SettingsError(f"there is no task file {path}; give a YAML file or a task's name")
        return TaskManager(include_defaults=False, include_path=str(path.parent))
    with quietly():
        if folder is not None:
            own = TaskManager(include_defaults=False, include_path=str(folder))
            if name in own.all_tasks and _complete(own, name):
                return own
        manager = TaskManager(include_path=str(folder) if folder else None)
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, n=3)
        guess = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise SettingsError(f"lm-eval knows no task {name!r}{guess}; `lm-eval ls tasks` lists all, "
                            "--task-folder adds your own")
    return manager


def _complete(own: Any, name: str) -> bool:
    """Whether ``own`` knows all that a group is made of; a task is made of nothing else."""
    entry = own.task_index[name]
    if name not in own.all_groups:
        return True
    members = (entry.cfg or {}).get("task")
    if not isinstance(members, list):
        return False
    return all(isinstance(m, str) and m in own.all_tasks and m != name and _complete(own, m) for m in members)


def load(manager: Any, name: str, fewshot: int | None) -> Any:
    """lm-eval's ``TaskDict`` for ``name``: tasks with their data, groups. Raises SettingsError."""
    with quietly(), seeded():
        try:
            found = manager.load([name])
        except SettingsError:
            raise
        except ImportError as error:
            raise SettingsError(f"the task {name} needs a package that is not installed "
                                f"({sentence(error)}); install it") from None
        except Exception as error:
            raise SettingsError(_why(manager, name, error)) from None
    for task in found["tasks"].values():
        _refuse(task)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=fewshot or 0)
        elif fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=fewshot)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return found


def _refuse(task: Any) -> None:
    """What lm-eval would say only when the model is loaded."""
    if getattr(task, "UNSAFE_CODE", False):
        raise SettingsError(f"the task {task.task_name} runs code that the model writes, which is not done "
                            "here without a sandbox; choose a task whose answers are compared")
    if getattr(task, "MULTIMODAL", False):
        raise SettingsError(f"the task {task.task_name} shows pictures or sound to the model, which reads "
                            "text only; choose a task of text")


def _why(manager: Any, name: str, error: Exception) -> str:
    """A task that exists did not open: nearly always its data."""
    if _is_about_data(error):
        return (f"the data of {name} is not on this machine and cannot be fetched ({sentence(error)}); run "
                f"once where there is a network (HF_HUB_OFFLINE unset), or copy the folder of HF_HOME here")
    return f"the task {name} cannot be opened ({sentence(error)}); look at its YAML file"


def _is_about_data(error: BaseException | None) -> bool:
    """Whether a connection or a file that is missing is among the causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kinds = {k.__name__ for k in type(error).__mro__}
        if kinds & {"ConnectionError", "FileNotFoundError", "DatasetNotFoundError", "HfHubHTTPError",
                    "OfflineModeIsEnabled", "TimeoutError", "LocalEntryNotFoundError"}:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """lm-eval and datasets draw no bars and print no lines: progress is told in events. Their bootstrap runs
    in this process."""
    import lm_eval.api.task
    import tqdm

    loggers = [logging.getLogger(n) for n in _LOGGERS]
    levels = [one.level for one in loggers]
    bars = [(lm_eval.api.task, lm_eval.api.task.tqdm), (tqdm, tqdm.tqdm)]
    single = os.environ.get("DISABLE_MULTIPROC")
    with _datasets_bars_off(), contextlib.redirect_stdout(None):
        try:
            for one in loggers:
                one.setLevel(logging.ERROR)
            for module, bar in bars:
                module.tqdm = functools.partial(bar, disable=True)
            os.environ["DISABLE_MULTIPROC"] = "1"
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)
            for module, bar in bars:
                module.tqdm = bar
            if single is None:
                os.environ.pop("DISABLE_MULTIPROC", None)
            else:
                os.environ["DISABLE_MULTIPROC"] = single


@contextlib.contextmanager
def _datasets_bars_off() -> Iterator[None]:
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """The same examples and draws every time; the caller's random numbers go on as if nothing had been."""
    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
