"""A shell command under construction: its flags, and a comment for all that has none."""

from __future__ import annotations

import shlex
from typing import Any

from workbench.settings import Settings
from workbench.settings.tree import FAMILIES


class Command:
    """Flags go in with the settings they stand for; ``text`` lists the settings that got none."""

    def __init__(self, settings: Settings, program: str) -> None:
        self.settings, self._program = settings, program
        self._values = settings.flat()
        self._words: list[str] = []
        self._before: list[str] = []
        self._notes: list[str] = []
        self._said: set[str] = set()

    def flag(self, *words: object, by: str | tuple[str, ...] = ()) -> None:
        """One flag with its value, standing for the settings ``by``. Quoted for a shell."""
        self.raw(" ".join(shlex.quote(str(w)) for w in words), by=by)

    def raw(self, text: str, by: str | tuple[str, ...] = ()) -> None:
        """A part that is shell already (a variable)."""
        self._words.append(text)
        self._said |= {by} if isinstance(by, str) else set(by)

    def before(self, line: str) -> None:
        """A line of shell that must run first."""
        self._before.append(line)

    def note(self, text: str, by: str | tuple[str, ...] = ()) -> None:
        """A comment that settles the settings ``by``."""
        self._notes.append(text)
        self._said |= {by} if isinstance(by, str) else set(by)

    def settle(self, *by: str) -> None:
        """These settings hold without a flag."""
        self._said |= set(by)

    def rest(self) -> dict[str, Any]:
        """What nothing was said about and what is not the default: path -> value."""
        default = Settings().flat()
        owners = {f for f in FAMILIES if self._values[f] != default[f]}
        return {p: v for p, v in self._values.items() if p not in self._said
                and (p.partition(".")[0] in owners or default.get(p) != v)}

    def text(self) -> str:
        """The script. Every line of a comment starts with ``# ``."""
        notes = self._notes + [f"{p}={v}: {self._program} has no counterpart; not exported"
                               for p, v in self.rest().items()]
        comments = [f"# {' '.join(n.split())}" for n in [
            f"{self.settings.label()}, exported by the Inference Workbench", *notes]]
        return "\n".join(["#!/bin/sh", *comments, *self._before,
                          " \\\n  ".join(self._words)]) + "\n"


def model_variable(command: Command, name: str, source: str, draft: bool = False) -> str:
    """A word that names a model: the hub id or folder, or a variable that finds the bundled one."""
    if source not in ("bundled", "auto"):
        return shlex.quote(source)
    inner = "zoo.draft_for(zoo.DEFAULT)" if draft else "zoo.DEFAULT"
    command.before(f'{name}=$(python -c "from workbench import zoo; print(zoo.path({inner}))")')
    return f'"${name}"'
