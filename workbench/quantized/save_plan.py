"""Writing a model with one scheme per matrix (a plan) as a compressed-tensors checkpoint.

Integers are symmetric (transformers 5.23 with compressed-tensors 0.20 cannot load packed zero points), so a
matrix that ``weights=mixed`` keeps with an offset is rounded anew here, and calibrated schemes (gptq) are
calibrated anew. 8-bit floats have one scale per row. What is written is what opens, bit for bit.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.calibration.grids import Grid, round_to_nearest
from workbench.calibration.layers import Opened
from workbench.calibration.prepared import Prepared, prepare, refuse
from workbench.calibration.quantizer import fitting
from workbench.calibration.recipe import Recipe
from workbench.errors import Cancelled, SettingsError, StoreError
from workbench.events import Event, Progress
from workbench.quantized import layouts
from workbench.quantized.save import _BESIDE, Written, _json, _outside, scheme_for
from workbench.quantized.scheme import Scheme, config_for
from workbench.quantized.several import FLOAT8
from workbench.runtime import beside
from workbench.runtime.checkpoint import INDEX
from workbench.techniques.weights import Calibrated, Weights

if TYPE_CHECKING:
    from workbench.settings import Settings

#: Largest finite E4M3 number.
E4M3_MOST = 448.0


def save_plan(settings: Settings, choice: Mapping[str, Weights], folder: Path,
              emit: Callable[[Event], None] = lambda event: None,
              cancelled: Callable[[], bool] | None = None) -> Written:
    """``choice``: matrix -> technique; those it does not name, and bf16 and fp32, stay ordinary matrices.

    ``folder`` must not exist; it is written beside and renamed. Raises SettingsError (a technique that the
    format cannot hold, a group that does not divide), ModelError, StoreError, Cancelled."""
    folder = Path(folder)
    kinds = {name: _Kind.of(method) for name, method in choice.items()
             if method.name() not in ("bf16", "fp32")}
    if not kinds:
        raise SettingsError("every matrix is kept as it is, so there is nothing to quantize; choose weights "
                            "like int4, or a plan with some")
    if folder.exists():
        raise StoreError(f"{folder} is there already; choose another folder, or remove it first")
    beside.check(folder)
    writing = _Writing(settings, kinds, emit, cancelled or (lambda: False))
    try:
        with beside.filling(folder) as aside:
            writing.fill(aside)
            nbytes = sum(p.stat().st_size for p in aside.iterdir())
    finally:
        writing.close()
    counts: dict[str, int] = {}
    for kind in kinds.values():
        counts[kind.describe()] = counts.get(kind.describe(), 0) + 1
    text = "; ".join(f"{n} matrices: {k}" for k, n in counts.items())
    return Written(folder, nbytes, len(kinds), f"compressed-tensors file: {text}", {})


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How one matrix is written: ``recipe`` None is E4M3."""

    recipe: Recipe | None
    calibrated: bool = False

    @classmethod
    def of(cls, method: Weights) -> _Kind:
        """Raises SettingsError for techniques that the format has no place for."""
        knobs: dict[str, Any] = method.to_dict()
        if isinstance(method, Calibrated):
            recipe = method.recipe()
            if recipe.scaling or recipe.rotation:
                raise SettingsError(f"{method} changes more than its matrix; save such a model with "
                                    "`workbench quantize`")
            return cls(dataclasses.replace(recipe, symmetric=True, integer=False), True)
        if method.name() in ("int4", "rtn"):
            return cls(Recipe(bits=int(knobs.get("bits", 4)), group=knobs["group"], symmetric=True,
                              rounding="nearest", clip=False))
        if method.name() == "int8":
            return cls(Recipe(bits=8, group=0, symmetric=True, rounding="nearest", clip=False))
        if method.name() == "fp8" and (knobs["element"], knobs["scale"]) == ("e4m3", "row"):
            return cls(None)
        raise SettingsError(f"{method} has no place in a compressed-tensors checkpoint; int4, int8, rtn, "
                            "gptq and fp8 (e4m3 by row) have")

    @property
    def scheme(self) -> Scheme:
        assert self.recipe is not None
        return scheme_for(self.recipe, "compressed-tensors")

    def describe(self) -> str:
        return "8-bit floats (E4M3), one scale per row" if self.recipe is None else \
            self.scheme.describe().partition(": ")[2]


class _Writing:
    def __init__(self, settings: Settings, kinds: Mapping[str, _Kind], emit: Callable[[Event], None],
                 cancelled: Callable[[], bool]) -> None:
        self.settings, self.kinds, self.emit, self.cancelled = settings, kinds, emit, cancelled
        self.calibrated: dict[Recipe, Prepared] = {}

    def fill(self, aside: Path) -> None:
        """Shards, index, config, tokenizer."""
        from safetensors.torch import save_file

        for kind in dict.fromkeys(self.kinds.values()):
            if kind.calibrated and kind.recipe is not None:
                self.calibrated[kind.recipe] = prepare(self.settings, kind.recipe, self.emit, self.cancelled)
        opened, table = Opened(self.settings, torch.bfloat16), dict[str, str]()
        try:
            refuse(self.settings, Recipe(rounding="nearest", group=0), opened.source)
            total = len(opened.layers) + 1
            for number, (label, tensors) in enumerate(self._shards(opened)):
                if self.cancelled():
                    raise Cancelled("saving was cancelled; nothing was written")
                name = f"model-{number + 1:05d}-of-{total:05d}.safetensors"
                save_file({k: v.contiguous() for k, v in tensors.items()}, aside / name, {"format": "pt"})
                table.update(dict.fromkeys(tensors, name))
                self.emit(Progress(what="save", done=number + 1, total=total, detail=label))
            size = sum(p.stat().st_size for p in aside.iterdir())
            _json(aside / INDEX, {"metadata": {"total_size": size}, "weight_map": table})
            _json(aside / "config.json", self._config(opened))
            for pattern in _BESIDE:
                for path in opened.source.folder.glob(pattern):
                    shutil.copy(path, aside / path.name)
        finally:
            opened.close()

    def _shards(self, opened: Opened) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        left = set(self.kinds)
        yield "embedding and head", _outside(opened, _Unchanged())  # type: ignore[arg-type]
        for index in range(len(opened.layers)):
            layer = opened.layer(index)
            if opened.swapped:
                raise SettingsError("this architecture keeps its matrices transposed, which the format does "
                                    "not hold; run it quantized without saving")
            tensors = {f"{layer.name}.{path}": value.detach().to(torch.bfloat16)
                       for path, value in layer.module.named_parameters()}
            for path, linear in layer.linears.items():
                name = f"{layer.name}.{path}"
                if name in self.kinds:
                    del tensors[f"{name}.weight"]
                    written = self._matrix(name, linear.weight.detach())
                    tensors.update({f"{name}.{key}": value for key, value in written.items()})
                    left.discard(name)
            yield f"layer {index}", tensors
            opened.empty()
        if left:
            raise SettingsError(f"this model has no matrix {min(left)}; the plan was made for another model")

    def _matrix(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Suffix -> tensor."""
        kind = self.kinds[name]
        if kind.recipe is None:
            scale = (weight.float().abs().amax(1, keepdim=True) / E4M3_MOST).clamp_(min=1e-30).bfloat16()
            codes = (weight.float() / scale.float()).clamp_(-E4M3_MOST, E4M3_MOST)
            return {"weight": codes.to(torch.float8_e4m3fn), "weight_scale": scale}
        if kind.recipe in self.calibrated:
            q, pairs = self.calibrated[kind.recipe].codes(name)
        else:
            grid = fitting(kind.recipe.grid, weight.shape[1], name)
            q, pairs = round_to_nearest(weight.float(), grid)
        return layouts.write(_whole(q, pairs, kind.recipe.grid), kind.scheme)

    def _config(self, opened: Opened) -> dict[str, Any]:
        config = dict(opened.source.config)
        config["dtype"] = "bfloat16"
        config.pop("torch_dtype", None)
        head = opened.names.get(id(opened.model.get_output_embeddings()), "lm_head")
        matrices = [f"{opened.names[id(layer)]}.{path}" for layer in opened.layers
                    for path, module in layer.named_modules() if isinstance(module, torch.nn.Linear)]
        ignore = [head, *(m for m in matrices if m not in self.kinds)]
        config["quantization_config"] = self._groups(ignore)
        return config

    def _groups(self, ignore: list[str]) -> dict[str, Any]:
        """One entry per kind. Where there is one kind alone, it is for every matrix that is not ignored."""
        found: dict[_Kind, list[str]] = {}
        for name, kind in self.kinds.items():
            found.setdefault(kind, []).append(name)
        groups, formats = {}, []
        for number, (kind, names) in enumerate(found.items()):
            if kind.recipe is None:
                weights: dict[str, Any] = {
                    "num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "group_size": None,
                    "strategy": "channel", "block_structure": None, "actorder": None, "observer": "minmax",
                    "observer_kwargs": {}}
                formats.append(FLOAT8)
            else:
                weights = config_for(kind.scheme, [])["config_groups"]["group_0"]["weights"]
                formats.append("pack-quantized")
            groups[f"group_{number}"] = {"targets": ["Linear"] if len(found) == 1 else sorted(names),
                                         "weights": weights, "input_activations": None,
                                         "output_activations": None, "format": formats[-1]}
        return {"quant_method": "compressed-tensors", "quantization_status": "compressed",
                "format": formats[0] if len(set(formats)) == 1 else "mixed-precision",
                "global_compression_ratio": None, "kv_cache_scheme": None, "ignore": ignore,
                "config_groups": groups}

    def close(self) -> None:
        for prepared in self.calibrated.values():
            prepared.close()


class _Unchanged:
    """Stands for a calibrated model that changed nothing beside its matrices."""

    def parameters(self) -> list[str]:
        return []

    def parameter(self, name: str) -> None:
        return None


def _whole(q: torch.Tensor, pairs: torch.Tensor, grid: Grid) -> layouts.Codes:
    """Codes, scales and whole zero points [rows, groups]."""
    scale, offset = pairs.float().permute(1, 0, 2).unbind(-1)
    zero = grid.middle - offset / scale
    return q, scale, zero.round().to(torch.uint8)
