"""Panel, told before its first import that its files are here and nowhere else.

Panel builds the addresses of its stylesheets from a content network's root when it is imported, and
rewrites them when a page is rendered; what is made later can slip through. With a root on this
server there is nothing to slip: ``from workbench.apps.offline import pn`` instead of importing it.
"""

from __future__ import annotations

import os
from pathlib import Path

#: Where this server has Panel's files, relative to the page.
ROUTE = "workbench-panel"
os.environ.setdefault("PANEL_CDN_ROOT", f"{ROUTE}/")

# After the root is set, hence not at the top.
import panel as pn  # noqa: E402
from panel.io.application import Application  # noqa: E402
from panel.io.resources import parse_template  # noqa: E402
from panel.io.server import Server  # noqa: E402
from panel.theme.base import Inherit  # noqa: E402
from panel.theme.native import Native  # noqa: E402
from panel.viewable import Viewable  # noqa: E402

DIST = Path(pn.__file__).parent / "dist"

__all__ = ["DIST", "ROUTE", "Application", "Inherit", "Native", "Server", "Viewable",
           "parse_template", "pn"]
