"""Showing a session in a notebook: the live widget where it works, always a static form beside it.

    bench = wb.open()
    bench            # shows this

Evaluating it again shows the same widget once more: one set of charts and one look per session,
however often the cell runs. Exports, viewers without scripts and front ends without widgets show
the static HTML.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.session import Session
    from workbench.widgets.view import View

_log = logging.getLogger(__name__)
_views: weakref.WeakKeyDictionary[Session, View] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def view(session: Session) -> View:
    """The session's view, made on first use and again when its widget was closed."""
    from workbench.widgets.model import BenchWidget
    from workbench.widgets.view import View

    with _lock:
        found = _views.get(session)
        if found is None or found.widget.comm is None:
            found = View(session, BenchWidget())
            _views[session] = found
            weakref.finalize(session, _forget, weakref.ref(found))
        return found


def _forget(reference: weakref.ref[View]) -> None:
    found = reference()
    if found is not None:
        with contextlib.suppress(Exception):
            found.close()


def bundle(session: Session) -> dict[str, Any]:
    """MIME type -> content: the widget (where there is one), static HTML, plain text."""
    data = static(session)
    if _widgets_work():
        shown = view(session)
        data["application/vnd.jupyter.widget-view+json"] = {
            "version_major": 2, "version_minor": 0, "model_id": shown.widget.model_id}
    return data


def static(session: Session) -> dict[str, Any]:
    """The forms that need no script."""
    from workbench.widgets.page import page

    return {"text/plain": repr(session), "text/html": page(session)}


def _widgets_work() -> bool:
    """Whether a kernel and the widget packages are there."""
    try:
        import anywidget  # noqa: F401
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()  # type: ignore[no-untyped-call]
    return shell is not None and getattr(shell, "kernel", None) is not None


def display(session: Session) -> None:
    """What evaluating a session does. Without widgets the static form follows the run instead."""
    from IPython.display import publish_display_data

    try:
        data = bundle(session)
    except Exception as error:  # a display must never break the notebook
        _log.exception("the view could not be made")
        data = {"text/plain": f"{session!r}\nThe view could not be made ({error!r}); the session "
                              "works: bench.run(...), bench.runs"}
        publish_display_data(data)  # type: ignore[no-untyped-call]
        return
    if "application/vnd.jupyter.widget-view+json" in data:
        publish_display_data(data)  # type: ignore[no-untyped-call]
        return
    from workbench.widgets.following import follow

    follow(session, data)
