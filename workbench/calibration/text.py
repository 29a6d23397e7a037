"""Calibration text: which tokens the layers see, chosen by a seed and named so that it can be repeated.

``bundled`` draws from what every machine has and no evaluation text contains: the standard library that
the bundled models were trained on, the language reference, and generated tasks. Anything else is a file
of the user's. The bundled evaluation documents are never used.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.errors import SettingsError

#: Characters cut out per token wanted; a text with longer tokens is tried again with more.
_CHARACTERS_PER_TOKEN = 8
#: Fewer tokens than this say little about any layer.
MIN_TOKENS = 256


@dataclass(frozen=True)
class Samples:
    """``ids`` int64 [samples, length]; ``places``: document and first character of each."""

    ids: torch.Tensor
    source: str
    seed: int
    places: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return self.ids.numel()

    def digest(self) -> str:
        """Of the token ids themselves: equal digests are equal calibration."""
        return hashlib.sha256(self.ids.numpy().tobytes()).hexdigest()[:16]


def draw(tokenizer: Any, source: str, samples: int, length: int, seed: int, vocab: int) -> Samples:
    """``samples`` windows of ``length`` tokens from ``source`` (``bundled`` or a text file's path).

    Raises SettingsError where the file cannot be read or has too few tokens."""
    documents = _bundled() if source == "bundled" else _file(Path(source).expanduser())
    chooser = random.Random(seed)
    rows, places = [], []
    for _ in range(samples):
        row, place = _window(tokenizer, documents, length, chooser)
        rows.append(row)
        places.append(place)
    ids = torch.tensor(rows)
    if int(ids.max()) >= vocab:
        raise SettingsError(f"the tokenizer gives token {int(ids.max())} and the model has {vocab}; they "
                            "do not belong together")
    if ids.numel() < MIN_TOKENS:
        raise SettingsError(f"{ids.numel()} calibration tokens are too few; take at least {MIN_TOKENS} "
                            "(more samples or longer ones)")
    return Samples(ids, source, seed, tuple(places))


def _window(tokenizer: Any, documents: dict[str, list[tuple[str, str]]], length: int,
            chooser: random.Random) -> tuple[list[int], str]:
    """One window: a domain, a document of it by its size, a place in it; next documents fill it up."""
    domain = chooser.choice(sorted(documents))
    pieces = documents[domain]
    which = chooser.choices(range(len(pieces)), [len(text) for _, text in pieces])[0]
    name, text = pieces[which]
    start = chooser.randrange(len(text)) if len(text) > length else 0
    start = text.rfind("\n", 0, start) + 1
    ids: list[int] = []
    cut, at = text[start:start + _CHARACTERS_PER_TOKEN * length], which
    for _ in range(len(pieces) + 1):
        ids += tokenizer(cut, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= length:
            return ids[:length], f"{name}:{start}"
        at = (at + 1) % len(pieces)
        cut = pieces[at][1][:_CHARACTERS_PER_TOKEN * length]
    raise SettingsError(f"the calibration text {name} has {len(ids)} tokens and one sample needs {length}; "
                        "give a longer text, or choose a shorter length")


def _file(path: Path) -> dict[str, list[tuple[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"the calibration text {path} cannot be read ({error.strerror or error}); give "
                            "a text file, or 'bundled'") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the calibration text {path} is not UTF-8 text; convert it") from None
    if not text.strip():
        raise SettingsError(f"the calibration text {path} is empty; give a longer text")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return {"file": [(f"{path.name}@{digest}", text)]}


def _bundled() -> dict[str, list[tuple[str, str]]]:
    """Domain -> (name, text). The same Python gives the same documents."""
    from workbench.zoo.recipes import corpus, tasks

    code = [(text.partition("\n")[0].removeprefix("# file: "), text) for text in corpus.code()]
    docs = [(f"topic {i}", text) for i, text in enumerate(corpus.docs())]
    made = tasks.documents(7, 400, [text[:300] for _, text in docs])
    return {"code": code, "docs": docs, "tasks": [(f"tasks {i}", "\n\n".join(made[i:i + 20]))
                                                 for i in range(0, len(made), 20)]}
