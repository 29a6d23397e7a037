"""Training text: domain -> list of documents.

Sources, and their licences:

- ``code``, ``docs``: the standard library of the running Python without its tests, and the language
  reference in ``pydoc_data.topics`` (PSF licence);
- ``books``: Project Gutenberg classics published before 1900 (public domain);
- ``gsm``: GSM8K train (Cobbe et al. 2021, arXiv:2110.14168; MIT);
- ``other``: plain Wikipedia text (CC BY-SA) and tiny Shakespeare (public domain);
- ``gen``: generated tasks (`workbench.zoo.recipes.tasks`).

Everything but ``code``, ``docs`` and ``gen`` is read from a data folder that is not part of the
repository. Without that folder the corpus has the domains every machine can make.
"""

from __future__ import annotations

import gzip
import json
import lzma
import random
import re
import sysconfig
from pathlib import Path

from workbench.zoo.recipes import tasks

_HELD = json.loads((Path(__file__).parent.parent / "eval" / "held_out.json").read_text("utf-8"))

#: Standard-library modules, by file name, that no bundled model is trained on.
HELD_OUT_MODULES = frozenset(_HELD["modules"])

#: The book that no bundled model is trained on, as a part of its file name.
HELD_OUT_BOOK = _HELD["book"]

#: Folders of the standard library that are not prose-like source: tests, tables, bundled packages.
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__", "ensurepip",
            "encodings", "pydoc_data"}


def code() -> list[str]:
    """Source files of the standard library, each with its path in a first comment line."""
    library = Path(sysconfig.get_paths()["stdlib"])
    documents = []
    for file in sorted(library.rglob("*.py")):
        if set(file.relative_to(library).parts) & _SKIPPED or file.name in HELD_OUT_MODULES:
            continue
        text = file.read_text(encoding="utf-8", errors="ignore")
        if 200 < len(text) < 400_000:
            documents.append(f"# file: {file.relative_to(library)}\n{text}")
    return documents


def docs() -> list[str]:
    """The language reference that every Python carries for ``help()``."""
    from pydoc_data.topics import topics

    return [text for _, text in sorted(topics.items())]


def books(data: Path, held_out: bool = False) -> list[str]:
    """Books in pieces of 12 000 characters, one line per paragraph; or the held-out book."""
    documents = []
    for file in sorted((data / "gutenberg-classics").glob("*.xz")):
        if (HELD_OUT_BOOK in file.name) != held_out:
            continue
        with lzma.open(file, "rt", encoding="utf-8") as stream:
            text = re.sub(r"(?<!\n)\n(?!\n)", " ", stream.read())
        documents += _pieces(text, 12_000)
    return documents


def gsm(data: Path, split: str = "train") -> list[str]:
    """GSM8K questions with worked answers; the calculator annotations ``<<...>>`` are removed."""
    file = next((data / "gsm8k").glob(f"{split}*"))
    opener = gzip.open if file.suffix == ".gz" else open
    documents = []
    with opener(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            answer = re.sub(r"<<[^>]*>>", "", row["answer"]).replace("#### ", "Answer: ")
            documents.append(f"Question: {row['question']}\n{answer}")
    return documents


def other(data: Path) -> list[str]:
    """Wikipedia and Shakespeare in pieces."""
    with lzma.open(data / "wikipedia-demo" / "wiki_demo.txt.xz", "rt", encoding="utf-8") as stream:
        documents = _pieces(stream.read(), 8000)
    shakespeare = data / "tinyshakespeare" / "input_first90.txt"
    return documents + _pieces(shakespeare.read_text("utf-8"), 6000)


def paragraphs(documents: list[str], seed: int = 5, limit: int = 20_000) -> list[str]:
    """Paragraphs of 80 to 420 characters, shuffled: the material of the copy-edit task."""
    found = [p.strip() for text in documents for p in re.split(r"\n\n+", text)
             if 80 < len(p) < 420]
    random.Random(seed).shuffle(found)
    return found[:limit]


def build(data: Path | None, seed: int = 1, n_tasks: int = 60_000) -> dict[str, list[str]]:
    """All domains. Without ``data``: code, docs, and tasks made of the docs' paragraphs."""
    if data is None:
        domains = {"code": code(), "docs": docs()}
        bank = paragraphs(domains["docs"])
    else:
        domains = {"code": code(), "books": books(data), "gsm": gsm(data), "docs": docs(),
                   "other": other(data)}
        bank = paragraphs(domains["books"])
    domains["gen"] = tasks.documents(seed, n_tasks, bank)
    return domains


def _pieces(text: str, size: int) -> list[str]:
    return [text[i:i + size] for i in range(0, len(text), size)]
