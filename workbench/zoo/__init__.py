"""The bundled models, their prompts and their evaluation text.

    from workbench import zoo
    zoo.names()                    # ["wb-14m", "wb-1m", "wb-dlm"]
    zoo.path("wb-14m")             # a folder that transformers opens with from_pretrained
    zoo.draft_for("wb-14m")        # "wb-1m": same tokenizer, 15 times smaller
    zoo.evaluation_text("code")    # documents that no bundled model was trained on

The models were trained from scratch by ``workbench.zoo.recipes``; each folder's ``README.md`` is the
model card, ``manifest.json`` the provenance, ``gates.json`` what was measured. Small models show
exactness, relative order and cost; they do not show the absolute speed-ups of large models.

Importing this costs nothing: torch and transformers are not imported.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import ModelError

_HERE = Path(__file__).parent

#: The model that ``bundled`` means.
DEFAULT = "wb-14m"

#: The masked-diffusion model.
DIFFUSION = "wb-dlm"

#: Target -> the draft that shares its tokenizer.
_DRAFTS = {"wb-14m": "wb-1m"}


@dataclass(frozen=True)
class Prompt:
    """A prompt that the bundled target answers readably."""

    id: str
    kind: str
    text: str


@dataclass(frozen=True)
class Document:
    """A held-out document. ``source`` says where the text comes from."""

    id: str
    kind: str
    text: str
    source: str


def names() -> list[str]:
    """The bundled models that are present, the default first."""
    found = sorted(p.parent.name for p in (_HERE / "models").glob("*/config.json"))
    return sorted(found, key=lambda name: (name != DEFAULT, name))


def path(name: str) -> Path:
    """The folder of a bundled model. Raises ModelError when there is none of that name."""
    folder = _HERE / "models" / name
    if name not in names():
        raise ModelError(f"no bundled model called {name!r}; there are: {', '.join(names())}")
    return folder


def heads() -> Path:
    """The folder of the bundled heads: one folder per model, in it one per method."""
    return _HERE / "heads"


def draft_for(name: str) -> str | None:
    """The bundled draft of a bundled target, or of a widened copy of one (its folder); None for others."""
    draft = _DRAFTS.get(name) or _DRAFTS.get(widened_from(name) or "")
    return draft if draft in names() else None


def widened_from(folder: str | Path) -> str | None:
    """The model that the one in ``folder`` is a widened copy of (``recipes/widen.py``), or None."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
        return str(config["widened_copy_of"]["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def card(name: str) -> dict[str, Any]:
    """The manifest of a model (recipe, data, provenance) with its gates under ``gates``."""
    folder = path(name)
    found: dict[str, Any] = {"name": name, "readme": (folder / "README.md").read_text("utf-8")}
    found.update(json.loads((folder / "manifest.json").read_text("utf-8")))
    gates = folder / "gates.json"
    found["gates"] = json.loads(gates.read_text("utf-8")) if gates.is_file() else None
    return found


def prompts(kind: str | None = None, model: str = DEFAULT) -> list[Prompt]:
    """The bundled prompts, all or of one kind: code, math, prose, edit, list, chat.

    ``model``: the masked-diffusion model has tasks of its own, in its own words."""
    if model == DIFFUSION:
        from workbench.zoo.list_tasks import TASKS, example

        return [Prompt(f"task-{t}", t, " ".join(example(t, 11, None if t == "add" else 6).prompt))
                for t in TASKS if kind in (None, t)]
    rows = [Prompt(**row) for row in json.loads((_HERE / "prompts.json").read_text("utf-8"))]
    return _of_kind(rows, kind)


def evaluation_text(kind: str | None = None, stdlib: bool = False) -> list[Document]:
    """Held-out documents, all or of one kind: prose, technical, code, math, dialogue.

    They were written for this project, so they are the same on every machine. ``stdlib=True`` adds
    the beginning of the standard-library modules that were held out of training; that text depends
    on the Python version, which ``source`` names.
    """
    rows = []
    for row in json.loads((_HERE / "eval" / "eval.json").read_text("utf-8")):
        text = (_HERE / "eval" / row["file"]).read_text("utf-8")
        rows.append(Document(row["id"], row["kind"], text, row["source"]))
    if stdlib:
        rows += held_out_modules()
    return _of_kind(rows, kind)


def held_out_modules(characters: int = 6000) -> list[Document]:
    """The first ``characters`` of each held-out standard-library module, of kind ``code``."""
    library = Path(sysconfig.get_paths()["stdlib"])
    version = ".".join(map(str, sys.version_info[:3]))
    source = f"Python {version} standard library"
    held = json.loads((_HERE / "eval" / "held_out.json").read_text("utf-8"))["modules"]
    return [Document(f"stdlib-{Path(name).stem}", "code",
                     (library / name).read_text("utf-8")[:characters], source)
            for name in held if (library / name).is_file()]


def _of_kind(rows: list[Any], kind: str | None) -> list[Any]:
    kinds = sorted({row.kind for row in rows})
    if kind is not None and kind not in kinds:
        raise ModelError(f"no text of kind {kind!r}; there are: {', '.join(kinds)}")
    return [row for row in rows if kind in (None, row.kind)]
