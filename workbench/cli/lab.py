"""``workbench lab``: JupyterLab with the tutorials, private by default."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import click


@click.command("lab")
@click.option("--port", default=8888, show_default=True, type=click.IntRange(1, 65535))
@click.option("--folder", type=click.Path(path_type=Path), default=Path("workbench-notebooks"),
              help="where the tutorials are copied to, unless this is a checkout")
@click.option("--no-browser", is_flag=True, help="print the link only")
def command(port: int, folder: Path, no_browser: bool) -> None:
    """Start JupyterLab where the tutorials are."""
    from workbench.errors import MissingDependency
    from workbench.lab import lab_command

    try:
        import jupyterlab  # noqa: F401
    except ImportError:
        raise MissingDependency("the lab needs JupyterLab; install it with "
                                "pip install 'inference-workbench[lab]'") from None
    where = notebooks(folder)
    arguments, environment = lab_command(where, port=port, browser=not no_browser)
    click.echo(f"JupyterLab in {where}; the first tutorial is 01_first_run.ipynb", err=True)
    raise SystemExit(subprocess.call(arguments, env={**os.environ, **environment}, cwd=where))


def notebooks(folder: Path) -> Path:
    """The checkout's ``notebooks/``, or a copy of the packaged tutorials that may be edited."""
    import workbench

    package = Path(workbench.__file__).parent
    checkout = package.parent / "notebooks"
    if (package.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((package / "notebooks").glob("*.ipynb")):
        if not (folder / source.name).exists():
            shutil.copy(source, folder / source.name)
    return folder.resolve()
