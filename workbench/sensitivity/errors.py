"""The error map: what every scheme does to every matrix of a model. A plain value, kept as JSON.

Maps lie in ``$WORKBENCH_HOME/cache/sensitivity/MODEL/MAP.json``: MODEL is the model's files, MAP the text
and the schemes. A map that is being made is a list of lines beside it, so that it can go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import StoreError
from workbench.machine import home

if TYPE_CHECKING:
    from workbench.settings import Settings

#: Raised when what is measured changes, so that older maps are not taken for new ones.
VERSION = 1


@dataclass(frozen=True)
class Cell:
    """One matrix under one scheme.

    ``weight_error``: |W - W'|^2 / |W|^2. ``output_error``: |X W^T - X W'^T|^2 / |X W^T|^2 on the text.
    ``kl``: nats per token that this matrix alone costs the model's prediction, ``kl_se`` its standard
    error; None where only the two errors were asked for. ``nbytes``: as stored, scales and padding too."""

    module: str
    layer: int
    part: str
    rows: int
    columns: int
    method: str
    nbytes: int
    weight_error: float
    output_error: float
    kl: float | None = None
    kl_se: float | None = None


@dataclass(frozen=True)
class ErrorMap:
    """``about``: model, text, tokens, dtype. ``cells``: matrix by matrix, in the model's order."""

    about: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.method for c in self.cells))

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.module for c in self.cells))

    @property
    def parts(self) -> tuple[str, ...]:
        """``self_attn.q_proj`` ...: the kinds of matrix, in order."""
        return tuple(dict.fromkeys(c.part for c in self.cells))

    @property
    def layers(self) -> int:
        return 1 + max((c.layer for c in self.cells), default=-1)

    def of(self, method: str) -> tuple[Cell, ...]:
        return tuple(c for c in self.cells if c.method == method)

    def worst(self, method: str, count: int = 8) -> list[Cell]:
        """The matrices that cost most under ``method``; by output error where no KL was measured."""
        return sorted(self.of(method), key=lambda c: -(c.output_error if c.kl is None else c.kl))[:count]


def model_key(settings: Settings) -> str:
    """Same files (or same random draw), same letters. Looks at this disk only: views ask it while drawing."""
    from workbench import zoo

    text = settings.model.source.strip()
    if text == "bundled" or text in zoo.names():
        where = Path(zoo.path(zoo.DEFAULT if text == "bundled" else text))
    else:
        where = Path(text).expanduser()
    random = settings.model.weights == "random"
    files = [where] if where.is_file() else sorted(
        p for p in where.glob("*") if p.suffix in (".safetensors", ".bin", ".pt", ".json"))
    state = [f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files]
    return _digest([str(where), settings.seed if random else None, *state])


def folder(settings: Settings) -> Path:
    """Where the maps of this model lie; need not be there."""
    return home() / "cache" / "sensitivity" / model_key(settings)


def place(settings: Settings, about: dict[str, Any], methods: Iterable[str]) -> Path:
    """The file of one map."""
    return folder(settings) / f"{_digest([VERSION, about, list(methods)])}.json"


def newest(settings: Settings) -> ErrorMap | None:
    """The map that was made last for this model, None where there is none."""
    where = folder(settings)
    files = sorted(where.glob("*.json"), key=lambda p: p.stat().st_mtime_ns) if where.is_dir() else []
    return load(files[-1]) if files else None


def known(settings: Settings, about: dict[str, Any]) -> list[Cell]:
    """Cells of every finished map of this model that was made the same way."""
    where, cells = folder(settings), list[Cell]()
    for path in sorted(where.glob("*.json")) if where.is_dir() else []:
        try:
            found = load(path)
        except StoreError:
            continue  # of another version
        cells += found.cells if found.about == about else ()
    return cells


def save(found: ErrorMap, path: Path) -> None:
    """Written beside and renamed: if it is there, it is whole."""
    text = json.dumps({"version": VERSION, "about": found.about, "cells": [asdict(c) for c in found.cells]})
    aside = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, "utf-8")
        aside.replace(path)
    except OSError as error:
        raise StoreError(f"the error map cannot be written to {path} ({error.strerror or error}); check the "
                         "folder, or set WORKBENCH_HOME to another disk") from None


def load(path: Path) -> ErrorMap:
    """Raises StoreError where the file is not a map."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["version"] != VERSION:
            raise StoreError(f"{path} is an error map of another version; measure it again")
        return ErrorMap(data["about"], tuple(Cell(**c) for c in data["cells"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is not an error map ({type(error).__name__}); delete it and measure again"
                         ) from None


class Journal:
    """Cells of a map that is being made, one line each, so that a stopped one goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(".lines")
        self.done: dict[tuple[str, str], Cell] = {}
        if self.path.is_file():
            for line in self.path.read_text("utf-8").splitlines():
                try:
                    cell = Cell(**json.loads(line))
                except (ValueError, TypeError):
                    break  # the line that was being written when it was stopped
                self.done[cell.module, cell.method] = cell
            self._rewrite()

    def _rewrite(self) -> None:
        self.path.write_text("".join(json.dumps(asdict(c)) + "\n" for c in self.done.values()), "utf-8")

    def add(self, cell: Cell) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(cell)) + "\n")
        except OSError as error:
            raise StoreError(f"the error map cannot be written to {self.path.parent} "
                             f"({error.strerror or error}); free some space, or set WORKBENCH_HOME") from None
        self.done[cell.module, cell.method] = cell

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
