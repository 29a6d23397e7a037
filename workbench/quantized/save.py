"""Writing a quantized checkpoint that other engines load: one shard per layer, whole or absent."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.calibration.layers import Opened
from workbench.calibration.prepared import Prepared, prepare
from workbench.calibration.recipe import Recipe
from workbench.errors import Cancelled, SettingsError, StoreError, one_of
from workbench.events import Event, Progress
from workbench.quantized import layouts
from workbench.quantized.scheme import FORMATS, Scheme, config_for
from workbench.runtime import beside
from workbench.runtime.checkpoint import INDEX

if TYPE_CHECKING:
    from workbench.settings import Settings

#: What a folder holds beside weights and config, taken over as it is.
_BESIDE = ("tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "spiece.model",
           "generation_config.json", "chat_template*", "LICENSE*")


@dataclass(frozen=True)
class Written:
    """``matrices`` quantized of ``nbytes`` in all; ``scheme`` in words; ``errors``: matrix -> squared
    output error over the squared output, on the calibration text."""

    folder: Path
    nbytes: int
    matrices: int
    scheme: str
    errors: dict[str, float]


def save(settings: Settings, recipe: Recipe, folder: Path, format: str = "compressed-tensors",
         emit: Callable[[Event], None] = lambda event: None,
         cancelled: Callable[[], bool] | None = None) -> Written:
    """Quantize the model of ``settings`` as ``recipe`` says and write it to ``folder``, which must not exist.

    Zero points are made whole, because the formats store them so. Raises SettingsError (a combination
    that the format cannot hold), ModelError, StoreError, Cancelled; nothing half-written stays, and
    finished layers of the calibration are kept for the next time."""
    folder = Path(folder)
    recipe = dataclasses.replace(recipe, integer=not recipe.symmetric)
    scheme = scheme_for(recipe, format)
    if folder.exists():
        raise StoreError(f"{folder} is there already; choose another folder, or remove it first")
    beside.check(folder)
    prepared = prepare(settings, recipe, emit, cancelled)
    try:
        with beside.filling(folder) as aside:
            matrices = _fill(aside, settings, prepared, scheme, emit, cancelled or (lambda: False))
            nbytes = sum(p.stat().st_size for p in aside.iterdir())
            errors = {name: float(r[0] / r[2]) for name, r in prepared.report().items() if r[2] > 0}
    finally:
        prepared.close()
    return Written(folder, nbytes, matrices, scheme.describe(), errors)


def scheme_for(recipe: Recipe, format: str) -> Scheme:
    """Raises SettingsError where the format cannot hold what the recipe makes."""
    if format not in FORMATS:
        raise SettingsError(one_of("checkpoint format", format, list(FORMATS)))
    if format == "awq" and (recipe.bits != 4 or recipe.symmetric):
        raise SettingsError("AWQ files hold 4 bits with zero points; choose bits=4 without symmetric, or the "
                            "format compressed-tensors")
    if format == "gptq" and recipe.bits not in (2, 3, 4, 8):
        raise SettingsError(f"GPTQ files hold 2, 3, 4 or 8 bits, not {recipe.bits}; choose "
                            "compressed-tensors")
    variant = {"gptq": "gptq", "awq": "gemm", "compressed-tensors": "pack-quantized"}[format]
    return Scheme(format, recipe.bits, recipe.group, recipe.symmetric, variant)


def _fill(aside: Path, settings: Settings, prepared: Prepared, scheme: Scheme, emit: Callable[[Event], None],
          cancelled: Callable[[], bool]) -> int:
    """Shards, index, config and tokenizer. Returns how many matrices were quantized."""
    from safetensors.torch import save_file

    opened, table, matrices = Opened(settings, torch.bfloat16), {}, 0
    try:
        total = len(opened.layers) + 1
        for number, (label, tensors) in enumerate(_shards(opened, prepared, scheme)):
            if cancelled():
                raise Cancelled("saving was cancelled; nothing was written")
            name = f"model-{number + 1:05d}-of-{total:05d}.safetensors"
            save_file({k: v.contiguous() for k, v in tensors.items()}, aside / name, {"format": "pt"})
            table.update(dict.fromkeys(tensors, name))
            matrices += sum(k.endswith("." + layouts.FIRST[scheme.format]) for k in tensors)
            emit(Progress(what="save", done=number + 1, total=total, detail=label))
        size = sum(p.stat().st_size for p in aside.iterdir())
        _json(aside / INDEX, {"metadata": {"total_size": size}, "weight_map": table})
        _json(aside / "config.json", _config(opened, prepared, scheme))
        for pattern in _BESIDE:
            for path in opened.source.folder.glob(pattern):
                shutil.copy(path, aside / path.name)
    finally:
        opened.close()
    return matrices


def _config(opened: Opened, prepared: Prepared, scheme: Scheme) -> dict[str, Any]:
    config = dict(opened.source.config)
    config["dtype"] = "bfloat16"
    config.pop("torch_dtype", None)
    head = opened.names.get(id(opened.model.get_output_embeddings()), "lm_head")
    if f"{head}.weight" in prepared.parameters():
        config["tie_word_embeddings"] = False
    config["quantization_config"] = config_for(scheme, [head])
    return config


def _shards(opened: Opened, prepared: Prepared, scheme: Scheme
            ) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    yield "embedding and head", _outside(opened, prepared)
    for index in range(len(opened.layers)):
        layer = opened.layer(index)
        tensors = {}
        if opened.swapped:
            raise SettingsError("this architecture keeps its matrices transposed, which the formats do not "
                                "hold; use weights=gptq without saving")
        for path, linear in layer.linears.items():
            name = f"{layer.name}.{path}"
            for key, value in layouts.write(_codes(prepared, name), scheme).items():
                tensors[f"{name}.{key}"] = value
            if linear.bias is not None:
                tensors[f"{name}.bias"] = _value(prepared, f"{name}.bias", linear.bias)
        for path, parameter in layer.module.named_parameters():
            if path.rpartition(".")[0] not in layer.linears:
                tensors[f"{layer.name}.{path}"] = _value(prepared, f"{layer.name}.{path}", parameter)
        yield f"layer {index}", tensors
        opened.empty()


def _outside(opened: Opened, prepared: Prepared) -> dict[str, torch.Tensor]:
    """Embedding, last norm, head (where it is not the embedding)."""
    inner = {id(m) for layer in opened.layers for m in layer.modules()}
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, module in opened.model.named_modules():
        if id(module) in inner:
            continue
        for key, parameter in list(module._parameters.items()):
            full = f"{name}.{key}"
            if parameter is None or (id(parameter) in seen and full not in prepared.parameters()):
                continue
            seen.add(id(parameter))
            changed = prepared.parameter(full)
            if changed is None:
                opened.fill(module)
                held = module._parameters[key]
                assert held is not None
                seen.add(id(held))
                changed = held.detach().clone()
            tensors[full] = changed.to(torch.bfloat16)
    opened.empty()
    return tensors


def _value(prepared: Prepared, name: str, parameter: torch.Tensor) -> torch.Tensor:
    changed = prepared.parameter(name)
    return (parameter.detach() if changed is None else changed).to(torch.bfloat16)


def _codes(prepared: Prepared, name: str) -> layouts.Codes:
    """Codes, scales and whole zero points [rows, groups]."""
    q, pairs = prepared.codes(name)
    scale, offset = pairs.float().permute(1, 0, 2).unbind(-1)
    zero = (1 << (prepared.recipe.bits - 1)) - offset / scale
    return q, scale, zero.round().to(torch.uint8)


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
