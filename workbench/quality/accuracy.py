"""Accuracy on tasks whose answers can be checked: generated, greedy, exact, with its error bar.

Arithmetic step by step and operations on lists (``zoo.recipes.tasks``): the answer is computed from the
prompt alone, so nothing is looked up and no data is needed. The seed is not one that training used.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, SettingsError
from workbench.events import Event, Progress, Quality

if TYPE_CHECKING:
    from workbench.runtime.model import Model
    from workbench.settings import Settings

SEED = 20_240_611
#: Prompts that are decoded together.
BATCH = 8
_MOST_TOKENS = 96


@dataclass
class Accuracy:
    """``right`` of ``count``; ``by_kind``: kind -> (right, count); ``answers``: prompt -> what was said."""

    right: int = 0
    count: int = 0
    by_kind: dict[str, tuple[int, int]] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return self.right / self.count if self.count else math.nan

    @property
    def se(self) -> float | None:
        """Half the 68 % interval of Wilson's score, which is not zero when all answers are right."""
        if not self.count:
            return None
        n, p = self.count, self.value
        return math.sqrt(p * (1 - p) / n + 1 / (4 * n * n)) / (1 + 1 / n)

    def add(self, kind: str, prompt: str, answer: str, right: bool) -> None:
        self.right += right
        self.count += 1
        was = self.by_kind.get(kind, (0, 0))
        self.by_kind[kind] = (was[0] + right, was[1] + 1)
        self.answers[prompt] = answer


def tasks(count: int, seed: int = SEED) -> list[str]:
    """``count`` documents of prompt and right answer; arithmetic and lists take turns."""
    from workbench.zoo.recipes import tasks as made

    chooser = random.Random(seed)
    return [made.arithmetic(chooser) if i % 2 else made.lists(chooser) for i in range(count)]


def kind_of(document: str) -> str:
    """``arithmetic`` or ``list:OPERATION``."""
    return "arithmetic" if document.startswith("Compute") else "list:" + document.split()[1]


def accuracy(model: Model, emit: Callable[[Event], None], cancelled: Callable[[], bool], *,
             count: int = 64, settings: Settings | None = None, journal: Path | str | None = None,
             seed: int = SEED) -> Accuracy:
    """Greedy answers to ``count`` tasks with the loaded model, checked exactly.

    Emits ``Quality`` ("accuracy", partial after every batch) and ``Progress``. ``journal`` keeps what was
    answered, so that a stopped one goes on. Raises Cancelled, SettingsError, OutOfMemory."""
    if count < 1:
        raise SettingsError(f"{count} tasks are too few; take at least 1")
    documents, found = tasks(count, seed), Accuracy()
    greedy = (settings or model.settings).with_({"decoding": "plain", "sampling.temperature": 0.0,
                                                 "telemetry.preset": "off", "telemetry.power": False})
    kept = _Kept(Path(journal) if journal else None, f"{greedy.to_json()}|{count}|{seed}")
    for start in range(0, count, BATCH):
        if cancelled():
            raise Cancelled("the tasks were cancelled; the answers so far are kept")
        batch = documents[start:start + BATCH]
        for document, answer in zip(batch, _answers(model, greedy, batch, kept, cancelled), strict=True):
            prompt, _ = _split(document)
            found.add(kind_of(document), prompt, answer, _right(document, answer))
        emit(Progress(what="tasks", done=found.count, total=count))
        emit(Quality(metric="accuracy", value=found.value, se=found.se, tokens=found.count,
                     done=found.count == count))
    kept.remove()
    return found


def _split(document: str) -> tuple[str, str]:
    from workbench.zoo.recipes import tasks as made

    return made.split(document)


def _answers(model: Any, settings: Settings, batch: list[str], kept: _Kept, cancelled: Callable[[], bool]
             ) -> list[str]:
    prompts = [_split(d)[0] for d in batch]
    asked = list(dict.fromkeys(p for p in prompts if p not in kept.done))
    if asked:
        room = min(_MOST_TOKENS, 4 + max(len(model.encode(_split(d)[1])) for d in batch))
        changed = settings.with_({"limits.max_new_tokens": room, "limits.batch": len(asked)})
        output = model.generate(asked, changed, lambda event: None, cancelled)
        kept.add(dict(zip(asked, output.texts, strict=True)))
    return [kept.done[p] for p in prompts]


def _right(document: str, answer: str) -> bool:
    """Whether what was said begins with the right answer and then ends its line."""
    expected = _split(document)[1].strip()
    said = answer.strip()
    return said == expected or said.startswith(expected + "\n")


class _Kept:
    """Prompt -> answer, one line each, begun anew for another evaluation."""

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.done = path, dict[str, str]()
        if path is None:
            return
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        if lines[:1] == [json.dumps(key)]:
            for line in lines[1:]:
                try:
                    prompt, answer = json.loads(line)
                except ValueError:
                    break
                self.done[prompt] = answer
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(key) + "\n" + self._lines(self.done), "utf-8")

    @staticmethod
    def _lines(answers: dict[str, str]) -> str:
        return "".join(json.dumps([p, a]) + "\n" for p, a in answers.items())

    def add(self, answers: dict[str, str]) -> None:
        self.done.update(answers)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._lines(answers))

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
