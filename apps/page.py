"""The page: template, look and sign-in form. Everything comes from this server.

Panel's ready-made templates fetch web fonts; this one uses the system's fonts and its own styles.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from workbench.apps.offline import Inherit, Native, Viewable, parse_template, pn

STATIC = Path(__file__).parent / "static"
ROUTE = "workbench-assets"


def _version(name: str) -> str:
    """A file's address with its age, so that a browser never keeps an old one."""
    return f"{ROUTE}/{name}?v={(STATIC / name).stat().st_mtime_ns:x}.css"


class Look(Native):
    """The native design with the workbench's stylesheet in every component."""

    modifiers = {Viewable: {"stylesheets": [Inherit, _version("widgets.css")]}}


def configure() -> None:
    """Panel's process-wide switches: once, before a page is made."""
    pn.extension("plotly", design=Look, sizing_mode="stretch_width", notifications=False,
                 raw_css=[], css_files=[], global_loading_spinner=False)
    pn.config.throttled = False


@cache
def _forms() -> Environment:
    return Environment(loader=FileSystemLoader(STATIC), autoescape=select_autoescape(
        ["html", "j2"], default_for_string=True, default=True))


def login_page(error: str = "", next: str = "/") -> str:
    """The sign-in form as HTML, everything escaped."""
    return _forms().get_template("login.html.j2").render(
        error=error, next=next, css=(STATIC / "page.css").read_text(encoding="utf-8"))


def template(parts: dict[str, Any], *, user: str, signed_in: bool) -> pn.Template:
    """The page with its parts in place; ``parts`` maps the template's regions to components."""
    page = pn.Template(parse_template((STATIC / "app.html.j2").read_text(encoding="utf-8")),
                       design=Look)
    for name, part in parts.items():
        page.add_panel(name, part)
    page.add_variable("chart_names", [n for n in parts if n.startswith("chart")])
    page.add_variable("page_css", (STATIC / "page.css").read_text(encoding="utf-8"))
    page.add_variable("user", user if signed_in else "")
    page.add_variable("signed_in", signed_in)
    return page
