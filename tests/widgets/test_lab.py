"""How JupyterLab is started: loopback, a token, nobody asked."""

from __future__ import annotations

import json
from pathlib import Path

from workbench.lab import lab_command, write_config


def test_loopback_and_token(tmp_path: Path) -> None:
    command, environment = lab_command(tmp_path, port=9999, browser=False, config=tmp_path / "c")
    assert "--ServerApp.ip=127.0.0.1" in command
    assert "--no-browser" in command
    token = next(c for c in command if c.startswith("--IdentityProvider.token=")).partition("=")[2]
    assert len(token) >= 32
    again, _ = lab_command(tmp_path, token="", config=tmp_path / "c")
    assert "--IdentityProvider.token=" not in again
    assert environment["JUPYTER_CONFIG_PATH"] == str(tmp_path / "c")


def test_nothing_that_asks_other_hosts_is_on(tmp_path: Path) -> None:
    write_config(tmp_path)
    page = json.loads((tmp_path / "labconfig" / "page_config.json").read_text())
    assert page["disabledExtensions"]["@jupyterlab/apputils-extension:announcements"] is True
    overrides = json.loads((tmp_path / "labconfig" / "default_setting_overrides.json").read_text())
    notify = overrides["@jupyterlab/apputils-extension:notification"]
    assert notify["checkForUpdates"] is False
    assert overrides["@jupyter-widgets/jupyterlab-manager:plugin"]["saveState"] is False
