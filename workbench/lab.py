"""How JupyterLab is started for the tutorials: on loopback, with a token, asking no other host.

The settings are files in a folder that is added to Jupyter's configuration path for this process
only; the user's own configuration is left alone.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Any

from workbench.machine import home

#: Extensions that exist to ask other hosts: the extension catalogue and the news.
_DISABLED = ("@jupyterlab/extensionmanager-extension", "@jupyterlab/apputils-extension:announcements")
#: Settings that keep the lab quiet; widget state is not saved because every panel also has a static form.
_OVERRIDES: dict[str, dict[str, Any]] = {
    "@jupyterlab/apputils-extension:notification": {
        "checkForUpdates": False, "fetchNews": "false", "doNotDisturbMode": True},
    "@jupyterlab/extensionmanager-extension:plugin": {"enabled": False},
    "@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": False},
}


def lab_command(folder: Path, *, port: int = 8888, token: str | None = None, browser: bool = True,
                config: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """(command line, extra environment) for JupyterLab in ``folder``.

    ``token``: made up when it is missing or empty, because without one any local page could run
    code. ``config``: where the settings files go, by default under the workbench's home."""
    token = token or secrets.token_hex(24)
    config = config or home() / "lab"
    write_config(config)
    command = [
        sys.executable, "-m", "jupyterlab", str(folder), "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", f"--IdentityProvider.token={token}",
        "--LabApp.news_url=None", "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    if not browser:
        command.append("--no-browser")
    return command, {"JUPYTER_CONFIG_PATH": str(config), "JUPYTER_PLATFORM_DIRS": "1",
                     "HF_HUB_OFFLINE": "1"}


def write_config(folder: Path) -> None:
    """The two files that JupyterLab reads from a ``labconfig`` folder."""
    lab = folder / "labconfig"
    lab.mkdir(parents=True, exist_ok=True)
    _write(lab / "page_config.json", {"disabledExtensions": dict.fromkeys(_DISABLED, True)})
    _write(lab / "default_setting_overrides.json", _OVERRIDES)


def _write(path: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=2)
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
