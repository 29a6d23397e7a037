"""Reading a small model whole, and writing a folder that opens again: whole or absent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import ModelError, SettingsError
from workbench.runtime import beside
from workbench.runtime.sources import resolve
from workbench.settings import Settings

#: Decoders whose every block is known here: norm, attention, norm, gated feed-forward.
ARCHITECTURES = ("llama",)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
              "chat_template.jinja", "tokenizer.model")


def read(source: str, seed: int = 0) -> tuple[Any, Path]:
    """(the model in float32, its folder). ``source``: a bundled name, a folder or a hub id.

    Raises ModelError where it is no Llama-style model or a weight is not finite."""
    from workbench.runtime.loading import skeleton, tensors_of

    settings = Settings().with_({"model": source})
    found = resolve(settings.model)
    kind = found.config.get("model_type")
    if kind not in ARCHITECTURES:
        raise ModelError(f"the model in {found.folder} is of type {kind!r}; structure changes know "
                         f"{', '.join(ARCHITECTURES)}")
    model = skeleton(found, torch.float32, False)
    tensors, given = tensors_of(model, settings, found), {}
    try:
        for name, module in model.named_modules():
            for key, param in list(module._parameters.items()):
                if param is None:
                    continue
                if id(param) not in given:
                    value = tensors.get(name, module, key, param).float()
                    if not torch.isfinite(value).all():
                        raise ModelError(f"{name}.{key} of {found.folder} holds NaN or infinite values; the "
                                         "checkpoint is damaged, so copy or download it again")
                    given[id(param)] = nn.Parameter(value.clone(), requires_grad=False)
                module._parameters[key] = given[id(param)]
    finally:
        tensors.close()
    return model.eval(), found.folder


def refuse_target(out: Path) -> None:
    """Nothing is overwritten, and the place can be written. Raises SettingsError, StoreError."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} exists already and is not empty; choose another folder, or delete it")
    beside.check(out)


def write(model: Any, source: Path, out: Path, about: dict[str, Any],
          dtype: torch.dtype | None = torch.bfloat16) -> Path:
    """A folder with config, weights and ``source``'s tokenizer; renamed into place when it is complete.

    ``about`` is kept in the config as ``made_by_structure``. Raises StoreError, SettingsError."""
    refuse_target(out)
    with beside.filling(out) as aside:
        model.config.made_by_structure = about
        kept = model if dtype is None else model.to(dtype)
        kept.save_pretrained(aside)
        for name in _TOKENIZER:
            if (source / name).is_file():
                shutil.copyfile(source / name, aside / name)
    return out


def blank(config: Any) -> Any:
    """A float32 model of ``config`` whose parameters are zero (ones where norms are)."""
    from workbench.runtime.structured import StructuredConfig, StructuredForCausalLM

    if isinstance(config, StructuredConfig):
        return StructuredForCausalLM(config).float().eval().requires_grad_(False)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)
