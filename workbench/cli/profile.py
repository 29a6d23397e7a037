"""``workbench profile``: any module through the profiler, one of the gallery's or one of yours."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import console, find_run, print_json, text_table
from workbench.errors import SettingsError

if TYPE_CHECKING:
    from workbench.store import Run


@click.command("profile")
@click.argument("target", required=False)
@click.option("--gallery", is_flag=True, help="TARGET is a stand-in of the gallery; without it, list them")
@click.option("--batch", default=1, show_default=True, help="batch size of a gallery entry")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32",
              show_default=True, help="of a gallery entry's weights and inputs")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
@click.option("--steps", default=20, show_default=True, help="timed forwards")
@click.option("--windows", default=3, show_default=True, help="forwards under the profiler")
@click.option("--seed", default=0, show_default=True, help="of random weights and inputs")
@click.option("--label", default="", help="the run's name")
@click.option("--baseline", help="a run to compare with")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(target: str | None, gallery: bool, batch: int, dtype: str, device: str, steps: int,
            windows: int, seed: int, label: str, baseline: str | None, as_json: bool) -> None:
    """Profile TARGET: a gallery entry (--gallery NAME), or MODULE:FUNCTION.

    The function takes no arguments and returns (module, inputs); MODULE is a Python file or an
    importable name. Importing it runs its code."""
    if gallery and target is None:
        return _list(as_json)
    if target is None:
        raise SettingsError("say what to profile: --gallery NAME, or FILE.py:FUNCTION that returns "
                            "(module, inputs); --gallery alone lists the entries")
    # Before torch is imported: threads that spin collapse when a neighbour takes a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if gallery:
        from workbench import gallery as entries

        module, inputs = entries.make(target, batch=batch, seed=seed, dtype=dtype, device=device)
    else:
        module, inputs = _made_by(target)
    from workbench.profiling import profile

    base = find_run(baseline) if baseline else None
    shown = console(stderr=True)
    with shown.status("profiling") as status:
        run = profile(module, inputs, steps=steps, windows=windows, name=label or target, baseline=base,
                      progress=lambda what, share: status.update(f"{what} {100 * share:.0f} %"))
    _show(run, base, as_json)


def _list(as_json: bool) -> None:
    from workbench import gallery

    titles = gallery.titles()
    if as_json:
        print_json([{"name": n, "title": t} for n, t in titles.items()])
        return
    console().print(text_table("Gallery", ["name", "what it stands for"],
                               [[n, t] for n, t in titles.items()], numbers=False))


def _made_by(target: str) -> tuple[Any, Any]:
    """(module, inputs) from ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``."""
    where, sign, name = target.rpartition(":")
    if not sign or not where or not name.isidentifier():
        raise SettingsError(f"{target!r} is not MODULE:FUNCTION; for a stand-in add --gallery")
    function = getattr(_import(where), name, None)
    if not callable(function):
        raise SettingsError(f"{where} has no function {name!r}")
    made = function()
    if not isinstance(made, tuple) or len(made) != 2:
        raise SettingsError(f"{target} must return (module, inputs)")
    return made


def _import(where: str) -> Any:
    import importlib

    path = Path(where)
    if path.suffix == ".py":
        if not path.is_file():
            raise SettingsError(f"there is no file {where}")
        from importlib import util

        spec = util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    try:
        return importlib.import_module(where)
    except ImportError as error:
        raise SettingsError(f"{where} cannot be imported ({error}); give a file that ends in .py, or an "
                            "importable name") from None


def _show(run: Run, base: Run | None, as_json: bool) -> None:
    from workbench.panels import panel, plain

    content = panel("modules").content(run, base)
    if as_json:
        print_json({"run": run.id, "label": run.label, "path": str(run.path),
                    "metrics": {k: m.value for k, m in run.metrics.items() if m.value is not None},
                    "modules": {k: v for k, v in plain(content).items() if k != "figures"}})
        return
    out = console()
    for line in content.sentences:
        out.print(line, markup=False)
    for t in plain(content)["tables"][:2]:
        out.print(text_table(t["title"], t["columns"], t["rows"][:12]))
    out.print(f"recorded as {run.id}; `workbench explain {run.id}` says more", markup=False)
