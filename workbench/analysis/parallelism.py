"""Quality against parallelism of masked-diffusion decoders: what a study found, as plain values.

A study (:mod:`workbench.diffusion.study`) lies as ``parallelism.json`` beside the model that it is about, or
where this machine keeps what it measured. Counts and texts do not depend on the machine's speed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "parallelism.json"
#: Standard errors of an interval that holds the truth 95 times in 100.
_Z = 1.959964


@dataclass(frozen=True)
class Point:
    """One decoder on one task: of ``examples`` answers ``right`` were valid and ``same`` those of one place
    per forward. ``tokens`` count each text's end, padding behind it does not; ``rows``: canvases computed."""

    task: str
    decoder: str
    examples: int
    right: int
    tokens: int
    forwards: int
    rows: int
    same: int

    @property
    def valid(self) -> float:
        return self.right / self.examples

    @property
    def per_forward(self) -> float:
        return self.tokens / self.forwards

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share of valid answers lies with 95 % confidence (Wilson's interval)."""
        n, p = self.examples, self.valid
        middle, half = p + _Z**2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + (_Z / (2 * n)) ** 2)
        scale = 1 + _Z**2 / n
        return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


@dataclass(frozen=True)
class Study:
    """``points`` of every decoder on every task; ``determined``: the tasks with one right answer."""

    model: str
    examples: int
    points: Sequence[Point]
    determined: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Study:
        """Raises ValueError, KeyError or TypeError for what is no study."""
        points = [Point(**p) for p in data["points"]]
        if any(p.examples < 1 or p.forwards < 1 for p in points):
            raise ValueError("a point without examples")
        return cls(str(data["model"]), int(data["examples"]), points, tuple(data["determined"]),
                   dict(data.get("environment", {})))

    def of(self, task: str) -> list[Point]:
        """A task's points, the slowest decoder first."""
        return sorted((p for p in self.points if p.task == task), key=lambda p: p.per_forward)

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(p.task for p in self.points))

    @property
    def decoders(self) -> list[str]:
        return list(dict.fromkeys(p.decoder for p in self.points))


def remember(source: str, study: Mapping[str, Any]) -> None:
    """Keep a study (as a dict) of a model on this machine. A disk that cannot take it is no reason to fail:
    the study is then forgotten."""
    file = _place(source)
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(study), "utf-8")
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)


def recall(source: str, folder: Path | None = None) -> Study | None:
    """What is known of a model: measured on this machine, else what lies in the model's ``folder``."""
    return read(_place(source)) or (read(folder / FILE) if folder is not None else None)


def _place(source: str) -> Path:
    """One file per model, by its name or by where its folder lies."""
    from workbench.machine import home

    path = Path(source).expanduser()
    name = str(path.resolve()) if path.is_dir() else source
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    return Path(home()) / "cache" / "diffusion" / f"{key}.json"


def read(file: Path) -> Study | None:
    """The study in this file, or None where there is none that can be read."""
    try:
        return Study.from_dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fastest_good(points: Sequence[Point], least: float = 0.9) -> Point | None:
    """The most parallel decoder whose answers are valid at least so often."""
    good = [p for p in points if p.valid >= least]
    return max(good, key=lambda p: p.per_forward) if good else None


def unbeaten(points: Sequence[Point]) -> list[Point]:
    """Those that no other one beats in both speed and quality, the slowest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.per_forward, -p.valid)):
        if not found or point.valid > found[-1].valid:
            found.append(point)
    return found[::-1]
