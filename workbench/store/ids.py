"""Run ids: sortable by time, unique across processes, safe as a folder name."""

from __future__ import annotations

import re
import secrets
import time

#: What a run's id looks like; anything else is never joined to a path.
PATTERN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4,8}")


def new_id(unix_s: float | None = None) -> str:
    """``20261120-211803-ab12``: UTC time and four random hex digits."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(unix_s))
    return f"{stamp}-{secrets.token_hex(2)}"


def is_id(text: str) -> bool:
    """Whether ``text`` is exactly a run id."""
    return PATTERN.fullmatch(text) is not None
