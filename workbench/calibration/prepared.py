"""A calibrated model on disk: made once per model and recipe, kept in the cache, read matrix by matrix."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.calibration import rotation, text, walk
from workbench.calibration.layers import Opened
from workbench.calibration.quantizer import Quantizer, fitting
from workbench.calibration.recipe import Recipe
from workbench.calibration.rotation import Rotation, write_outside
from workbench.errors import Cancelled, ModelError, SettingsError
from workbench.events import Event, Progress
from workbench.machine import home
from workbench.quantized.scheme import scheme_of
from workbench.runtime.checkpoint import Checkpoint
from workbench.runtime.loading import is_matrix, skeleton
from workbench.runtime.packed import Packed
from workbench.runtime.packed_codes import module_of
from workbench.runtime.sources import Source, resolve
from workbench.runtime.tokens import tokenizer_for
from workbench.shape import from_config

if TYPE_CHECKING:
    from workbench.settings import Settings

#: Models with more parameters than this run their layers in bfloat16 while they are calibrated.
WIDE_PARAMETERS = 200_000_000


class Prepared:
    """Codes of every matrix of a model's decoder layers, and what else the recipe changed."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        self._files = Checkpoint(sorted(folder.glob("*.safetensors")))
        self._about: dict[str, Any] = json.loads((folder / "key.json").read_text("utf-8"))

    def holds(self, name: str) -> bool:
        return f"{name}.planes" in self._files

    def codes(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """q uint8 [rows, columns] and pairs bfloat16 [groups, rows, 2] of a matrix."""
        from workbench.kernels.bit_planes import planes

        q = planes.unpack(self._files.read(f"{name}.planes")).to(torch.uint8)
        return q, self._files.read(f"{name}.pairs")

    def pack(self, name: str, bias: torch.Tensor | None, device: torch.device,
             shape: tuple[int, int]) -> Packed:
        """The module that multiplies by matrix ``name``, [rows, columns] of ``shape``."""
        if not self.holds(name):
            raise ModelError(f"{self.folder} has no codes of {name}; delete that folder to make them again")
        q, pairs = self.codes(name)
        if q.shape != shape:
            raise ModelError(f"{self.folder} has another shape of {name}; delete that folder")
        return module_of(q, pairs, self.recipe.bits, bias, device)

    def parameters(self) -> list[str]:
        """Names of parameters that the recipe changed beside the rounded matrices (norms, biases)."""
        return [n for n in self._files.entries if n.rpartition(".")[2] not in ("planes", "pairs", "report")]

    def parameter(self, name: str) -> torch.Tensor | None:
        """The changed values of a parameter, or None where it stays as the checkpoint has it."""
        return self._files.read(name) if name in self._files.entries else None

    def matrices(self) -> list[str]:
        return [n.removesuffix(".planes") for n in self._files.entries if n.endswith(".planes")]

    def report(self) -> dict[str, torch.Tensor]:
        """Matrix -> what :data:`workbench.calibration.quantizer.REPORT` names, float64."""
        return {k.removesuffix(".report"): self._files.read(k) for k in self._files.entries
                if k.endswith(".report") and not k.endswith(".scales.report")}

    def describe(self) -> str:
        return (f"{self.recipe.title()}, calibrated on {self.recipe.samples} x {self.recipe.length} tokens "
                f"of {self._about['source']}")

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare(settings: Settings, recipe: Recipe, emit: Callable[[Event], None],
            cancelled: Callable[[], bool] | None = None) -> Prepared:
    """The calibrated model of ``settings.model``: from the cache, or made now and kept there.

    Shows its progress; stopped, it goes on where it was. Raises ModelError, SettingsError, StoreError,
    Cancelled; the model itself is never touched."""
    source = resolve(settings.model)
    refuse(settings, recipe, source)
    about = key_of(settings, recipe, source)
    folder = home() / "cache" / "calibrated" / digest(about)
    if not (folder / "done").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, emit, cancelled):
            if not (folder / "done").is_file():
                make(settings, recipe, source, folder, about, emit, cancelled)
    return Prepared(folder, recipe)


def make(settings: Settings, recipe: Recipe, source: Source, folder: Path, about: dict[str, Any],
         emit: Callable[[Event], None], cancelled: Callable[[], bool] | None) -> None:
    """Fill ``folder``. See :func:`prepare`."""
    vocab = int(source.config["vocab_size"])
    tokenizer, _ = tokenizer_for(source.folder, vocab, source.random or source.gguf is not None,
                                 settings.model.trust_remote_code)
    emit(Progress(what="calibrate", done=0, detail="text"))
    length = min(recipe.length, int(source.config.get("max_position_embeddings") or recipe.length))
    samples = text.draw(tokenizer, recipe.text, recipe.samples, length, recipe.seed, vocab)
    shape = from_config(source.config)

    def change(opened: Opened) -> None:
        if recipe.rotation:
            opened.change = turn = Rotation(shape.hidden, shape.head_dim, recipe.seed)
            write_outside(opened, turn, folder / "outside.safetensors")

    walk.walk(settings, samples, Quantizer(recipe, shape.head_dim), folder,
              {**about, "tokens": samples.digest()}, emit, cancelled, dtype_for(settings), change)


def dtype_for(settings: Settings) -> torch.dtype:
    """Of the layers while they are calibrated."""
    shape = from_config(resolve(settings.model).config)
    return torch.bfloat16 if shape.parameters > WIDE_PARAMETERS else torch.float32


def refuse(settings: Settings, recipe: Recipe, source: Source) -> None:
    """What cannot work, before anything is read. Raises SettingsError, ModelError."""
    from workbench.runtime.guard import layers_of

    stored = scheme_of(source.config)
    if stored is not None and not source.random:
        raise SettingsError(f"the model in {source.folder} is quantized already ({stored.describe()}); open "
                            "the original model to quantize it another way")
    model = skeleton(source, torch.float32, settings.model.trust_remote_code)
    if recipe.rotation or recipe.scaling:
        rotation.refuse(model.config)
    names = {id(m): n for n, m in model.named_modules()}
    for layer in layers_of(model):
        for module in layer.modules():
            if is_matrix(module):
                weight = module.weight
                columns = weight.shape[1] if isinstance(module, torch.nn.Linear) else weight.shape[0]
                fitting(recipe.grid, columns, names[id(module)])


def key_of(settings: Settings, recipe: Recipe, source: Source) -> dict[str, Any]:
    """Everything that the codes depend on."""
    files = sorted(p for p in source.folder.glob("*") if p.suffix in (".safetensors", ".json", ".bin", ".pt"))
    if source.gguf is not None:
        files.append(source.gguf)
    if source.random:
        files = [source.config_path]
    found: dict[str, Any] = {"recipe": recipe.to_dict(), "random": settings.seed if source.random else None,
                             "model": str(source.config_path),
                             "files": [f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files]}
    if recipe.text == "bundled":
        version = ".".join(map(str, sys.version_info[:3]))
        found["source"] = f"bundled text (Python {version})"
    else:
        path = Path(recipe.text).expanduser()
        known = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "missing"
        found["source"] = f"{path.name} ({known})"
    return found


def digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _alone(folder: Path, emit: Callable[[Event], None], cancelled: Callable[[], bool] | None
           ) -> Iterator[None]:
    """Wait until no other process fills this folder."""
    with (folder / "lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if cancelled is not None and cancelled():
                    raise Cancelled("waiting for another process's calibration was cancelled") from None
                emit(Progress(what="calibrate", done=0, detail="another process makes the same"))
                time.sleep(0.2)
        yield
