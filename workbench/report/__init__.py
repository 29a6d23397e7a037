"""One self-contained HTML file from one, two or many runs: opens offline, asks nobody for anything."""

from __future__ import annotations

from workbench.report.page import html, write

__all__ = ["html", "write"]
