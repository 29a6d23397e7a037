"""From what a person wrote to a folder on this disk: bundled name, folder, config.json, GGUF or hub id.

Local things come first; the network is asked only for what looks like ``org/name`` and is nowhere
here, once, with a short timeout, and never when ``HF_HUB_OFFLINE`` is set.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import ModelError
from workbench.settings.sections import Model

_HUB_ID = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")
_SAFE = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*"]
_HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Source:
    """``folder``: holds config.json and, unless ``random``, the weights. ``config``: parsed.

    ``gguf``: the file that holds the weights; ``folder`` then keeps its config and tokenizer."""

    folder: Path
    config_path: Path
    config: dict[str, Any]
    random: bool
    gguf: Path | None = None


def resolve(model: Model) -> Source:
    """Raises ModelError with one sentence when there is nothing usable at ``model.source``."""
    place = _locate(model)
    if place.suffix == ".gguf" and place.is_file():
        return _from_gguf(place, model)
    config_path = place if place.is_file() else place / "config.json"
    folder = config_path.parent
    random = model.weights == "random"
    if place.is_file() and place.suffix != ".json":
        raise ModelError(f"{place} is a file of another kind; give a model folder, a config.json, a "
                         ".gguf file, or a hub id like org/name")
    config = _read_config(config_path)
    _refuse_remote_code(config, model, folder)
    _refuse_encoder(config, config_path)
    if not random:
        _refuse_missing_weights(folder, place, model)
    return Source(folder, config_path, config, random)


def _from_gguf(path: Path, model: Model) -> Source:
    """Config and tokenizer of the file in a folder of the cache, made once per version of the file."""
    import hashlib

    from workbench.gguf import metadata, tokenizer
    from workbench.gguf.read import open_file
    from workbench.machine import home

    state = path.stat()
    key = hashlib.sha256(f"{path}|{state.st_mtime_ns}|{state.st_size}".encode()).hexdigest()[:16]
    folder = home() / "cache" / "gguf" / key
    if not (folder / "config.json").is_file():
        file = open_file(path)
        config = metadata.config_of(file)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.restore(file, folder)
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    config_path = folder / "config.json"
    return Source(folder, config_path, _read_config(config_path), model.weights == "random", path)


def _locate(model: Model) -> Path:
    from workbench import zoo

    text = model.source.strip()
    if text == "bundled" or text in zoo.names():
        return Path(zoo.path(zoo.DEFAULT if text == "bundled" else text))
    path = Path(text).expanduser()
    if text and path.exists():
        return path.resolve()
    if not _HUB_ID.fullmatch(text) or text.endswith(".json"):
        known = ", ".join(["bundled", *zoo.names()])
        raise ModelError(f"there is no file or folder {text!r}; give a folder, a config.json, a hub "
                         f"id like org/name, or one of: {known}")
    return _from_hub(text, model.allow_pickle)


def _from_hub(name: str, allow_pickle: bool) -> Path:
    """The snapshot's folder: from the local hub cache, else downloaded (safetensors and texts)."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    patterns = _SAFE + (["*.bin"] if allow_pickle else [])
    try:
        return Path(hub.snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError, ValueError):
        pass
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ModelError(f"{name!r} is neither a local folder nor in the hub cache, and the hub is "
                         "switched off (HF_HUB_OFFLINE is set)")
    try:
        hub.HfApi().model_info(name, timeout=_HUB_TIMEOUT_S)  # one request, no retries
        return Path(hub.snapshot_download(name, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise ModelError(f"{name!r} asks for its licence to be accepted on the hub first; do that, "
                         "then sign in with `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"there is no folder {name!r} here and no public model of that name on the "
                         "hub; check the spelling") from None
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else ""
        raise ModelError(f"{name!r} is no local folder, and the model hub cannot be reached "
                         f"({type(error).__name__}{': ' + reason if reason else ''})") from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"there is no config.json in {path.parent}; give a model folder, a "
                         "config.json, or a hub id like org/name") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, UnicodeDecodeError):
        raise ModelError(f"{path} is not valid JSON; copy or download it again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a model config (it must be a JSON object)")
    return config


def _refuse_remote_code(config: dict[str, Any], model: Model, folder: Path) -> None:
    """Code that a checkpoint brings is never needed for architectures that transformers has."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from workbench.runtime import structured

    kind = config.get("model_type")
    own_code = model.trust_remote_code and config.get("auto_map")
    if kind in CONFIG_MAPPING_NAMES or structured.known(kind) or own_code:
        return
    if config.get("auto_map"):
        raise ModelError(f"the model in {folder} runs Python code of its own; set "
                         "model.trust_remote_code=true if you trust whoever wrote it")
    raise ModelError(f"the installed transformers does not know the model type {kind!r} of {folder}; "
                     "a newer transformers may")


def _refuse_encoder(config: dict[str, Any], path: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from workbench.runtime import structured

    kind, named = config.get("model_type"), config.get("architectures") or []
    causal = any(n.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
                 for n in named) or not named
    known = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "auto_map" in config or structured.known(kind)
    if config.get("is_encoder_decoder") or not causal or not known:
        what = named[0] if named else kind
        raise ModelError(f"{path} describes {what}, which is not a decoder-only language model; "
                         "the workbench runs models like Llama, Qwen, Mistral or GPT-2")


def _refuse_missing_weights(folder: Path, given: Path, model: Model) -> None:
    from workbench.runtime.checkpoint import INDEX

    if any(folder.glob("*.safetensors")) or (folder / INDEX).is_file():
        return
    pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
    if pickles and not model.allow_pickle:
        raise ModelError(f"{folder} holds only pickle files ({pickles[0].name}), which can run code "
                         "when read; convert them to safetensors, or set model.allow_pickle=true")
    if not pickles:
        raise ModelError(f"{given} has no weights (*.safetensors); set model.weights=random to fill "
                         "the shape with random numbers")
