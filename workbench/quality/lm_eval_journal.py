"""What a model has answered of an lm-eval task so far, so that a stopped one goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.errors import StoreError


class Responses:
    """Request -> response, one line of JSON each. A file of other settings (``about`` differs) is begun
    anew; without ``path`` nothing is written. Raises StoreError where the disk refuses."""

    def __init__(self, path: Path | None, about: str) -> None:
        self.path, self._done = path, dict[str, Any]()
        if path is None:
            return
        head = json.dumps(about)
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        if lines[:1] == [head]:
            for line in lines[1:]:
                try:
                    key, response = json.loads(line)
                except (ValueError, TypeError):
                    break  # the line that was being written when it was stopped
                self._done[key] = response
        self._write(head + "\n" + "".join(_line(k, r) for k, r in self._done.items()), "w")

    def __len__(self) -> int:
        return sum(not key.startswith("count ") for key in self._done)

    def known(self, kind: str, arguments: Sequence[Any], turn: int = 0) -> Any:
        """The response, None where there is none yet. ``turn``: how often the same was asked before."""
        return self._done.get(_key(kind, arguments, turn))

    def add(self, kind: str, arguments: Sequence[Any], response: Any, turn: int = 0) -> None:
        key = _key(kind, arguments, turn)
        self._done[key] = response
        self._write(_line(key, response), "a")

    def count(self, name: str, value: int | None = None) -> int:
        """A number that belongs to the responses so far: the one that is kept, or ``value`` from now on."""
        key = f"count {name}"
        if value is not None and value != self._done.get(key, 0):
            self._done[key] = value
            self._write(_line(key, value), "a")
        return int(self._done.get(key, 0))

    def remove(self) -> None:
        """The task is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, text: str, mode: str) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise StoreError(f"the task's progress cannot be kept in {self.path} "
                             f"({error.strerror or error}); free some space, or set WORKBENCH_HOME") from None


def _key(kind: str, arguments: Sequence[Any], turn: int) -> str:
    text = json.dumps([kind, list(arguments), turn], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _line(key: str, response: Any) -> str:
    return json.dumps([key, response]) + "\n"
