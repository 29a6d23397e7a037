"""Where widgets cannot work: the static form, shown again in place while runs go on."""

from __future__ import annotations

import contextlib
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from workbench.widgets import pulse

if TYPE_CHECKING:
    from workbench.session import Session

#: Looks (of 0.25 s) between two updates: static pages are larger than the widget's messages.
_EVERY = 3


class Follower:
    """Replaces one display's content when the session changed."""

    def __init__(self, session: Session, display_id: str) -> None:
        self._session = weakref.ref(session, self._gone)
        self._id, self._version, self._looks = display_id, session.version, 0

    def _gone(self, _: Any) -> None:
        pulse.discard(self)

    def tick(self) -> None:
        session = self._session()
        self._looks += 1
        if session is None or self._looks % _EVERY or session.version == self._version:
            return
        self._version = session.version
        from IPython.display import update_display

        from workbench.widgets.bench import static

        with contextlib.suppress(OSError):
            update_display(static(session), display_id=self._id, raw=True)


_followers: weakref.WeakKeyDictionary[Session, Follower] = weakref.WeakKeyDictionary()


def follow(session: Session, data: dict[str, Any]) -> None:
    """Show ``data`` now; only the newest display of a session is kept up to date."""
    from IPython.display import display

    before = _followers.pop(session, None)
    if before is not None:
        pulse.discard(before)
    display_id = f"workbench-{uuid.uuid4().hex}"
    display(data, display_id=display_id, raw=True)
    follower = Follower(session, display_id)
    _followers[session] = follower
    pulse.add(follower)
