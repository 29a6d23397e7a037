"""What a head is made for, and where it lies; read before anything is loaded, so no torch here."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from workbench.shape import ModelShape

#: method -> what it is, in words.
METHODS = {
    "medusa": "one residual block per future token, independent of each other",
    "clover": "a block over the states, then one step per token that sees the token before it",
    "eagle": "features continued one token at a time by one decoder layer",
    "dovetail": "as eagle, with a gate that mixes state and token, and two layers",
    "hidden_transfer": "states of future tokens guessed at a middle layer, refined by the layers above",
    "ppd": "trained prompt tokens that make the target itself guess ahead",
}

SPEC, WEIGHTS, CARD = "head.json", "head.safetensors", "README.md"


@dataclass(frozen=True)
class HeadSpec:
    """``steps``: how far it drafts; ``options``: what the method's module needs to be built again;
    ``target``: the name it was trained for; ``shape``: hidden, layers, vocab of that target."""

    method: str
    target: str
    hidden: int
    layers: int
    vocab: int
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    #: hits[d][r]: share of held-out places where the r-th guess for step d + 1 was the target's token.
    hits: list[list[float]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, folder: Path) -> HeadSpec:
        """Raises ModelError for a folder that holds no head."""
        try:
            found = json.loads((folder / SPEC).read_text("utf-8"))
            return cls(**found)
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{folder} is no head ({SPEC}: {error}); give a folder that `workbench heads "
                             "train` wrote") from None

    def mismatch(self, target: ModelShape, copy: bool = False) -> str | None:
        """Why this head cannot serve a target of this shape, or None. ``copy``: the target may be a widened
        copy of the one that the head was trained for."""
        wider = target.hidden > self.hidden and target.hidden % self.hidden == 0
        if copy and wider and target.layers >= self.layers and target.vocab == self.vocab:
            return None
        for name, mine, yours in (("hidden width", self.hidden, target.hidden),
                                  ("number of layers", self.layers, target.layers),
                                  ("vocabulary", self.vocab, target.vocab)):
            if mine != yours:
                return (f"this {self.method} head was trained for {self.target}, whose {name} is {mine}; "
                        f"the target's is {yours}. " + advice(self.method))
        return None


def advice(method: str, model: str = "MODEL") -> str:
    """How to get a head."""
    return f"Train one with `workbench heads train {model} --method {method}`"


def home() -> Path:
    """Where trained heads are kept."""
    from workbench.machine import home as of_machine

    return of_machine() / "heads"


def slug(target: str) -> str:
    """A hub id or path as a folder name."""
    from workbench import zoo

    if target == "bundled":
        return zoo.DEFAULT
    path = Path(target).expanduser()
    if path.exists():
        bundled = next((n for n in zoo.names() if zoo.path(n).resolve() == path.resolve()), None)
        target = bundled or str(path.resolve())
    return re.sub(r"[^A-Za-z0-9._-]+", "--", target).strip("-")


def places(method: str, target: str) -> list[Path]:
    """Folders where this target's head may lie, the user's first."""
    from workbench import zoo

    names = [slug(target), *([slug(original)] if (original := original_of(target)) else [])]
    return [root / name / method for name in names for root in (home(), zoo.heads())]


def original_of(target: str) -> str | None:
    """What the model in this folder is a function-preserving widened copy of, or None."""
    file = Path(target).expanduser()
    file = file if file.suffix == ".json" else file / "config.json"
    try:
        found = json.loads(file.read_text("utf-8"))["widened_copy_of"]["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)


def locate(head: str, method: str, target: str) -> Path:
    """The folder of a head. ``head``: ``auto`` or a folder; ``target``: ``settings.model.source``.

    Raises SettingsError that says how to train one when there is none."""
    if head != "auto":
        folder = Path(head).expanduser()
        if (folder / SPEC).is_file():
            return folder
        raise SettingsError(f"there is no head in {head!r}; give a folder with a {SPEC}. {advice(method)}")
    for folder in places(method, target):
        if (folder / SPEC).is_file():
            return folder
    raise SettingsError(f"{target!r} has no {method} head. {advice(method, target)}, or use "
                        "decoding=prompt_lookup, which needs none")


def why_not(head: str, method: str, target: str, shape: ModelShape | None = None) -> str | None:
    """The sentence for a head that is missing or does not fit; None when it serves."""
    try:
        spec = HeadSpec.read(locate(head, method, target))
    except (ModelError, SettingsError) as error:
        return str(error)
    if spec.method != method:
        return f"the head in {head!r} is a {spec.method} head; set decoding={spec.method}. {advice(method)}"
    return spec.mismatch(shape) if shape is not None else None


def none_for(head: str, method: str, shape: ModelShape) -> str | None:
    """Why no head that is known here fits a target of this shape, whichever model that is; or None."""
    if head != "auto":
        return why_not(head, method, "", shape)
    from workbench import zoo

    known = [*zoo.heads().glob(f"*/{method}/{SPEC}"), *home().glob(f"*/{method}/{SPEC}")]
    for file in known:
        try:
            if HeadSpec.read(file.parent).mismatch(shape, copy=True) is None:
                return None
        except ModelError:
            continue
    return f"no {method} head is known for a model of this shape. {advice(method)}"
