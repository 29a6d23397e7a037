"""A panel whose every text is an attack, for the tests of views."""

from __future__ import annotations

from typing import Any

from workbench.panels import Action, Content, Panel, Table

EVIL = "<script>window.owned=1</script><img src=x onerror='window.owned=1'>"


def build(run: Any, baseline: Any = None) -> Content:
    return Content(
        sentences=[EVIL], figures=[
            {"data": [{"type": "bar", "x": [1], "y": [2]}], "layout": {}},
            {"data": [{"type": "heatmap", "x": [0, 1], "y": ["a", "b"], "z": [[1, 2], [3, 4]],
                       "customdata": [[None, None], [None, 0]]}], "layout": {"meta": {"picks": True}}}],
        tables=[Table(EVIL, ["name", "ms"], [[EVIL, 1.5], ["b", None]])],
        actions=[Action("fewer bits", {"weights": "int8"}, help=EVIL)],
        picks=[Action("more bits", {"weights": "fp32"}, help=EVIL)])


PANEL = Panel("evil", "Evil", "What if text were markup?", build)
