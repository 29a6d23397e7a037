"""A pruned model on disk: made once per model and settings by one-shot pruning, kept in the cache."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.calibration import text
from workbench.calibration.prepared import _alone, digest, dtype_for, key_of
from workbench.calibration.walk import Pass, walk
from workbench.errors import ModelError, SettingsError
from workbench.events import Event, Progress
from workbench.machine import home
from workbench.quantized.scheme import scheme_of
from workbench.runtime.checkpoint import Checkpoint
from workbench.runtime.packed_sparse import Sparse
from workbench.runtime.sources import resolve
from workbench.runtime.tokens import tokenizer_for
from workbench.structure import sparsegpt

if TYPE_CHECKING:
    from workbench.calibration.layers import Layer
    from workbench.calibration.statistics import Statistics
    from workbench.settings import Settings

#: Raised when what is computed changes, so that older results are not taken for new ones.
VERSION = 1


@dataclass(frozen=True)
class SparseRecipe:
    """What a pruned model is made with; also the key of its cache."""

    sparsity: float
    damp: float = 0.01
    refit: bool = True
    samples: int = 64
    length: int = 512
    text: str = "bundled"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples * self.length < text.MIN_TOKENS:
            raise SettingsError(f"{self.samples} samples of {self.length} tokens are too little calibration "
                                f"text; take at least {text.MIN_TOKENS} tokens")

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "version": VERSION, "method": "sparsegpt"}


class Pruner:
    """The consumer of the walk that prunes: later matrices of a layer see the earlier ones pruned."""

    def __init__(self, recipe: SparseRecipe) -> None:
        self.recipe = recipe
        self._found: dict[str, torch.Tensor] = {}

    def passes(self, groups: list[list[str]]) -> list[Pass]:
        return [Pass(", ".join(names), tuple(names)) for names in groups]

    def observed(self, layer: Layer, done: Pass, statistics: dict[str, Statistics]) -> None:
        from workbench.kernels.sparse_linear.packing import pack

        for name in done.names:
            gram, linear = statistics[name].gram, layer.linears[name]
            assert gram is not None
            found = sparsegpt.prune(linear.weight.detach(), gram, self.recipe.sparsity,
                                    damp=self.recipe.damp, refit=self.recipe.refit)
            values, index = pack(found.weight, found.kept)
            self._found[f"{name}.values"], self._found[f"{name}.index"] = values, index
            linear.weight.copy_(found.weight.bfloat16())

    def keep(self, layer: Layer) -> dict[str, torch.Tensor]:
        kept, self._found = self._found, {}
        missing = [name for name in layer.linears if f"{name}.values" not in kept]
        if missing:
            raise ModelError(f"{layer.name}.{missing[0]} was never reached by the calibration text, so it "
                             "cannot be pruned with errors made up for; choose method=magnitude")
        return kept


class PreparedSparse:
    """Sparse matrices of a model's decoder layers; what the loader asks (``Weights.prepare``)."""

    def __init__(self, folder: Path, recipe: SparseRecipe) -> None:
        self.folder, self.recipe = folder, recipe
        self._files = Checkpoint(sorted(folder.glob("*.safetensors")))
        self._about: dict[str, Any] = json.loads((folder / "key.json").read_text("utf-8"))

    def holds(self, name: str) -> bool:
        return f"{name}.values" in self._files

    def pack(self, name: str, bias: torch.Tensor | None, device: torch.device,
             shape: tuple[int, int]) -> Sparse:
        """The module that multiplies by matrix ``name``, [rows, columns] of ``shape``."""
        if not self.holds(name):
            raise ModelError(f"{self.folder} has no matrix {name}; delete that folder to make it again")
        values, index = (self._files.read(f"{name}.{k}").to(device) for k in ("values", "index"))
        if index.numel() != shape[0] + 1 + shape[0] * -(-shape[1] // 32):
            raise ModelError(f"{self.folder} has another shape of {name}; delete that folder")
        return Sparse(values, index, bias, shape)

    def parameters(self) -> list[str]:
        return []

    def parameter(self, name: str) -> torch.Tensor | None:
        return None

    def matrices(self) -> list[str]:
        return [n.removesuffix(".values") for n in self._files.entries if n.endswith(".values")]

    def describe(self) -> str:
        refit = ", least squares refit" if self.recipe.refit else ""
        return (f"SparseGPT{refit}, calibrated on {self.recipe.samples} x {self.recipe.length} tokens of "
                f"{self._about['source']}")

    def close(self) -> None:
        self._files.close()


def prepare(settings: Settings, recipe: SparseRecipe, emit: Callable[[Event], None],
            cancelled: Callable[[], bool] | None = None) -> PreparedSparse:
    """The pruned model of ``settings.model``: from the cache, or made now, layer by layer.

    Shows its progress; stopped, it goes on where it was. Raises ModelError, SettingsError, StoreError,
    Cancelled; the model itself is never touched."""
    source = resolve(settings.model)
    stored = scheme_of(source.config)
    if stored is not None and not source.random:
        raise SettingsError(f"the model in {source.folder} is quantized already ({stored.describe()}); open "
                            "the original model to prune it")
    about = key_of(settings, recipe, source)  # type: ignore[arg-type]
    folder = home() / "cache" / "calibrated" / digest(about)
    if not (folder / "done").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, emit, cancelled):
            if not (folder / "done").is_file():
                _make(settings, recipe, folder, about, emit, cancelled)
    return PreparedSparse(folder, recipe)


def _make(settings: Settings, recipe: SparseRecipe, folder: Path, about: dict[str, Any],
          emit: Callable[[Event], None], cancelled: Callable[[], bool] | None) -> None:
    source = resolve(settings.model)
    vocab = int(source.config["vocab_size"])
    tokenizer, _ = tokenizer_for(source.folder, vocab, source.random or source.gguf is not None,
                                 settings.model.trust_remote_code)
    emit(Progress(what="calibrate", done=0, detail="text"))
    length = min(recipe.length, int(source.config.get("max_position_embeddings") or recipe.length))
    samples = text.draw(tokenizer, recipe.text, recipe.samples, length, recipe.seed, vocab)
    walk(settings, samples, Pruner(recipe), folder, {**about, "tokens": samples.digest()}, emit, cancelled,
         dtype_for(settings))
