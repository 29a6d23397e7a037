"""GGUF files for peers that read them: the model's own, or one made once and kept in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import SettingsError
from workbench.gguf.read import open_file

if TYPE_CHECKING:
    from workbench.backends.base import Opening

#: How a block format multiplies in engines that round activations to 8 bits.
WIDTHS = {"F32": "W32", "F16": "W16", "BF16": "W16", "Q8_0": "W8A8", "Q4_0": "W4A8", "Q4_1": "W4A8",
          "Q5_0": "W5A8", "Q4_K": "W4A8", "Q5_K": "W5A8", "Q6_K": "W6A8"}


@dataclass(frozen=True)
class Chosen:
    """``kind``: the format of most matrices. ``given``: the user's own file."""

    path: Path
    kind: str
    scheme: str
    given: bool


def kind_for(opening: Opening, plain: str) -> str:
    """The block format that stands for a weights technique. Raises SettingsError for others."""
    weights = opening.settings.weights
    name = weights.name()
    if name == "int4":
        return "Q4_0" if getattr(weights, "symmetric", False) else "Q4_1"
    found = {"bf16": plain, "fp32": "F32", "int8": "Q8_0"}.get(name)
    if found is None:
        raise SettingsError(f"weights={name} has no GGUF format; choose bf16, fp32, int8 or int4 with "
                            f"backend={opening.settings.backend.name()}")
    return found


def file_for(opening: Opening, plain: str) -> Chosen:
    """The file to open; conversion shows its progress and can be cancelled."""
    source = opening.source
    if source.gguf is not None:
        return _chosen(source.gguf, True)
    from workbench.export import gguf
    from workbench.machine import home

    kind = kind_for(opening, plain)
    state = [f"{p}:{p.stat().st_mtime_ns}:{p.stat().st_size}"
             for p in sorted(source.folder.glob("*")) if p.is_file()]
    seed = opening.settings.seed if source.random else ""
    key = hashlib.sha256("|".join([str(source.config_path), str(seed), str(source.random), *state])
                         .encode()).hexdigest()[:16]
    path = home() / "cache" / "gguf" / f"{key}-{kind.lower()}.gguf"
    if not path.is_file():
        gguf.write(opening.settings, path, kind, opening.emit, opening.cancelled)
    return _chosen(path, False)


def _chosen(path: Path, given: bool) -> Chosen:
    file = open_file(path)
    counts: dict[str, int] = {}
    for tensor in file.tensors.values():
        if len(tensor.shape) > 1:
            counts[tensor.kind] = counts.get(tensor.kind, 0) + tensor.nbytes
    return Chosen(path, max(counts, key=lambda k: counts[k]), file.scheme(), given)


def weights_fact(chosen: Chosen, requested: str, rounds: bool) -> tuple[str, str]:
    """(what the matrices are, why that is not what was asked).

    ``rounds``: the peer's block kernels round activations to 8 bits too."""
    width = WIDTHS.get(chosen.kind, chosen.kind)
    if not rounds:
        width = width.replace("A8", "A16")
    what = f"GGUF {chosen.kind} ({width}): {chosen.scheme}"
    if chosen.given:
        return what, "" if requested == "bf16" else "the file is used as it is"
    if chosen.kind in ("F32", "BF16"):
        return what, ""
    if chosen.kind == "F16":
        return what, "bfloat16 became float16: 3 more bits of fraction, 3 fewer of exponent"
    why = f"blocks of 32 columns with a 16-bit scale instead of {requested}"
    return what, why + (", and activations are rounded to 8 bits as well" if rounds else "")
