"""Building heads, and their files: ``head.json`` and ``head.safetensors``, replaced whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from workbench.errors import ModelError, SettingsError, StoreError
from workbench.heads.distil import Head
from workbench.heads.spec import METHODS, SPEC, WEIGHTS, HeadSpec
from workbench.heads.target import Target


def default_spec(method: str, target: Target, name: str, steps: int = 0) -> HeadSpec:
    """The recipe's shape of a head for this target; ``steps`` 0 is the method's own.

    Raises SettingsError for a method that has no head."""
    if method not in METHODS:
        raise SettingsError(f"no head method {method!r}; there are: {', '.join(METHODS)}")
    block: dict[str, Any] = {"heads": target.heads, "kv_heads": target.kv_heads,
                             "inner": inner(target.hidden)}
    every: dict[str, dict[str, Any]] = {
        "medusa": {"blocks": 1}, "clover": block,
        "eagle": {**block, "fusion": "linear", "layers": 1, "rolled": 2},
        "dovetail": {**block, "fusion": "gate", "layers": 2, "rolled": 2},
        "hidden_transfer": {"layer": max(1, target.layers // 2)}, "ppd": {}}
    far = steps or {"clover": 4, "eagle": 4, "dovetail": 4}.get(method, 3)
    return HeadSpec(method, name, target.hidden, target.layers, target.vocab, far, every[method])


def inner(hidden: int) -> int:
    """Width of a head's MLP: 4/3 of the target's width in whole 64s (half of what a decoder has)."""
    return max(64, round(hidden * 4 / 3 / 64) * 64)


def build(spec: HeadSpec) -> Head:
    """The module of a spec, freshly initialised."""
    from workbench.heads import clover, eagle, hidden_transfer, medusa, prompt_tokens

    makers: dict[str, Any] = {
        "medusa": medusa.Medusa, "clover": clover.Clover, "eagle": eagle.Eagle, "dovetail": eagle.Eagle,
        "hidden_transfer": hidden_transfer.HiddenTransfer, "ppd": prompt_tokens.PromptTokens}
    made: Head = makers[spec.method](spec)
    return made


def save(head: Head, spec: HeadSpec, folder: Path, card: str = "") -> Path:
    """Write a head in bfloat16. Whoever reads meanwhile finds the former head or this one, whole.

    Raises StoreError when the disk refuses."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".head-"))
    try:
        tensors = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in head.state_dict().items()}
        save_file(tensors, temporary / WEIGHTS)
        (temporary / SPEC).write_text(json.dumps(spec.to_dict(), indent=1) + "\n", "utf-8")
        if card:
            (temporary / "README.md").write_text(card, "utf-8")
        for file in temporary.iterdir():
            file.chmod(0o644)
        temporary.chmod(0o755)
        _exchange(temporary, folder)
    except OSError as error:
        raise StoreError(f"the head could not be written to {folder} ({error.strerror}); free some space or "
                         "set WORKBENCH_HOME to another disk") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _exchange(new: Path, folder: Path) -> None:
    """A folder cannot be replaced in one step where one is: the former steps aside first."""
    if folder.exists():
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".head-"))
        os.replace(folder, aside / "old")
        os.replace(new, folder)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(new, folder)


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[HeadSpec, Head]:
    """A head ready to draft. Raises ModelError for damaged files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    spec = HeadSpec.read(folder)
    try:
        head = build(spec)
        head.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(f"the head in {folder} cannot be read ({first}); train it again with `workbench "
                         f"heads train`") from None
    return spec, head.to(device, dtype).eval().requires_grad_(False)


def measured(spec: HeadSpec, **changes: Any) -> HeadSpec:
    """The spec with what training found out."""
    return replace(spec, **changes)
