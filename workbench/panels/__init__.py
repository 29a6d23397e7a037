"""Questions about a run, one per file; see :mod:`workbench.panels.base`."""

from __future__ import annotations

from workbench.panels.base import Action, Content, Panel, Table, panel, panels, plain, say

__all__ = ["Action", "Content", "Panel", "Table", "panel", "panels", "plain", "say"]
