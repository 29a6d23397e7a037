"""What an evaluation has scored so far: one line per window, so that a stopped one goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import StoreError


@dataclass(frozen=True)
class Scored:
    """Per scored token of one window, float64: ``nll``, and where there is a reference ``kl`` and
    ``same`` (1.0 where the most probable token is the reference's)."""

    nll: np.ndarray
    kl: np.ndarray
    same: np.ndarray


class Journal:
    """``done``: window -> scores. A file of another evaluation (``about`` differs) is begun anew."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.done = path, dict[int, Scored]()
        head = json.dumps(about, sort_keys=True, default=str)
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        good = [head]
        if lines[:1] == [head]:
            for line in lines[1:]:
                try:
                    index, *parts = json.loads(line)
                    self.done[index] = Scored(*(np.array(p, dtype=np.float64) for p in parts))
                except (ValueError, TypeError):
                    break  # the line that was being written when it was stopped
                good.append(line)
        self._write("".join(line + "\n" for line in good), "w")

    def add(self, index: int, scored: Scored) -> None:
        """Keep the scores of a finished window."""
        self.done[index] = scored
        parts = (scored.nll.tolist(), scored.kl.tolist(), scored.same.tolist())
        self._write(json.dumps([index, *parts]) + "\n", "a")

    def _write(self, text: str, mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise StoreError(f"the evaluation's progress cannot be kept in {self.path} "
                             f"({error.strerror or error}); free some space, or set WORKBENCH_HOME") from None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
