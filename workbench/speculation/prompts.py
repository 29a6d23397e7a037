"""Prompts of several kinds: the bundled ones, any number of generated ones, and a folder's.

Kinds: ``summary`` (a passage to be summed up), ``translation-like`` (a text to be said again with one word
changed: every output token has its counterpart in the input, as in a translation), ``copy``, ``code``,
``math``, ``list``, ``chat``, ``prose``. They are made from the bundled evaluation text, which no bundled
model was trained on, and from tasks whose random numbers are seeded.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from workbench import zoo
from workbench.errors import SettingsError
from workbench.zoo import Prompt
from workbench.zoo.recipes import tasks

#: Kinds that can be generated.
KINDS = ("summary", "translation-like", "copy", "code", "math", "list", "chat", "prose")
#: Characters that a folder's prompt is cut to by default: bundled models were trained on short texts.
CUT = 1200


def generated(count: int, seed: int = 5, kinds: tuple[str, ...] = KINDS) -> list[Prompt]:
    """``count`` different prompts, the kinds in turn. The same for the same arguments everywhere."""
    r = random.Random(seed)
    found: dict[str, Prompt] = {}
    for attempt in range(50 * count):
        if len(found) == count:
            break
        kind = kinds[attempt % len(kinds)]  # a kind that has no more new ones gives way to the others
        text = _MAKERS[kind](r)
        found.setdefault(text, Prompt(f"{kind}-{attempt}", kind, text))
    return list(found.values())


def bundled(each: int | None = None) -> dict[str, list[Prompt]]:
    """Kind -> the bundled prompts, and generated ones of the kinds that these lack."""
    found: dict[str, list[Prompt]] = {}
    for prompt in zoo.prompts():
        found.setdefault(prompt.kind, []).append(prompt)
    for kind in ("summary", "translation-like"):
        found[kind] = generated(4, seed=11, kinds=(kind,))
    return {kind: rows[:each] for kind, rows in found.items()}


def folder(path: Path, each: int | None = None, cut: int = CUT) -> dict[str, list[Prompt]]:
    """Kind -> prompts of a folder: ``*.jsonl`` with ``turns`` (or ``prompt``) and ``category``, as
    Spec-Bench has them, and ``*.txt`` files, whose kind is the part of the name before the first ``-``.

    Raises SettingsError where the folder holds none."""
    if not path.is_dir():
        raise SettingsError(f"--prompts {path} is no folder; give one with .jsonl or .txt files")
    found: dict[str, list[Prompt]] = {}
    for file in sorted(path.glob("*.jsonl")):
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            if line.strip():
                prompt = _parsed(file, number, line, cut)
                found.setdefault(prompt.kind, []).append(prompt)
    for file in sorted(path.glob("*.txt")):
        kind = file.stem.partition("-")[0]
        found.setdefault(kind, []).append(Prompt(file.stem, kind, file.read_text("utf-8")[:cut]))
    if not found:
        raise SettingsError(f"{path} holds no prompts; put .txt files or .jsonl lines with "
                            '"turns" and "category" there')
    return {kind: rows[:each] for kind, rows in found.items()}


def _parsed(file: Path, number: int, line: str, cut: int) -> Prompt:
    try:
        row = json.loads(line)
        text = row["turns"][0] if "turns" in row else row["prompt"]
        kind = str(row.get("category", file.stem))
        return Prompt(f"{kind}-{row.get('question_id', number)}", kind, str(text)[:cut])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise SettingsError(f'{file}, line {number}: not a JSON object with "turns" or "prompt"') from None


def _passages() -> list[str]:
    """Paragraphs of held-out prose."""
    texts = [d.text for kind in ("prose", "technical") for d in zoo.evaluation_text(kind)]
    return [p.strip() for text in texts for p in text.split("\n\n") if 200 <= len(p.strip()) <= 700]


def _summary(r: random.Random) -> str:
    beginning = r.choice(("In short,", "In other words,", "To sum up,", "Briefly,"))
    return f"{r.choice(_passages())}\n\n{beginning}"


def _beginning(r: random.Random) -> str:
    words = r.choice(_passages()).split()
    at = r.randrange(max(1, len(words) - 30))
    return " ".join(words[at:at + r.randint(12, 28)])


def _code(r: random.Random) -> str:
    lines = r.choice([d.text for d in zoo.evaluation_text("code")]).split("\n")
    starts = [i for i, line in enumerate(lines) if line.startswith(("def ", "class ", "    def ", "import "))]
    at = r.choice(starts)
    return "\n".join(lines[at:at + r.randint(2, 9)]) + "\n"


def _copied(r: random.Random, replaced: bool) -> str:
    """The task of this form; drawing goes on until it comes."""
    while True:
        prompt = tasks.split(tasks.copy_edit(r, _passages()))[0]
        if ("replace the word" in prompt) == replaced:
            return prompt


_MAKERS: dict[str, Callable[[random.Random], str]] = {
    "summary": _summary, "prose": _beginning, "code": _code,
    "translation-like": lambda r: _copied(r, True), "copy": lambda r: _copied(r, False),
    "math": lambda r: tasks.split(tasks.arithmetic(r))[0],
    "list": lambda r: tasks.split(tasks.lists(r))[0], "chat": lambda r: tasks.split(tasks.chat(r))[0]}
