"""A model as a GGUF file: ``write(settings, path, "q8_0")``.

Matrices are read, ordered and packed one by one, so memory holds one of them (and the writer's
temporary file the rest). F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q5_0 are packed by the ``gguf`` package;
the K formats need llama.cpp's own quantizer (``llama-cpp-python``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import (
    Cancelled,
    MissingDependency,
    ModelError,
    SettingsError,
    StoreError,
    one_of,
)
from workbench.events import Event, Progress
from workbench.gguf import metadata, names, package, rope, tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from workbench.settings import Settings

PLAIN = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1",
         "q5_0": "Q5_0"}
#: Made by llama.cpp from a BF16 file: name -> its ``LLAMA_FTYPE_MOSTLY_...``.
QUANTIZER = {"q4_k_m": "Q4_K_M", "q4_k_s": "Q4_K_S", "q5_k_m": "Q5_K_M", "q6_k": "Q6_K"}
KINDS = (*PLAIN, *QUANTIZER)


@dataclass(frozen=True)
class Written:
    """``notes``: what a reader of the file should know, one sentence each."""

    path: Path
    nbytes: int
    scheme: str
    notes: tuple[str, ...] = ()


def write(settings: Settings, path: Path, kind: str = "q8_0",
          emit: Callable[[Event], None] = lambda event: None,
          cancelled: Callable[[], bool] = lambda: False) -> Written:
    """Convert the model that ``settings.model`` names (its checkpoint, or random weights).

    A file that is not complete is removed. Raises SettingsError (a format that is not written),
    ModelError, MissingDependency, StoreError (a full disk), Cancelled."""
    kind = kind.lower()
    if kind not in KINDS:
        raise SettingsError(one_of("GGUF format", kind, list(KINDS)))
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind in QUANTIZER:
            notes = _through_llama(settings, part, kind, emit, cancelled)
        else:
            notes = _convert(settings, part, PLAIN[kind], emit, cancelled)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}; free some space or "
                         "choose another folder") from None
    finally:
        part.unlink(missing_ok=True)
    from workbench.gguf.read import open_file

    return Written(path, path.stat().st_size, open_file(path).scheme(), tuple(notes))


def _convert(settings: Settings, path: Path, kind: str, emit: Callable[[Event], None],
             cancelled: Callable[[], bool]) -> list[str]:
    gguf = package()
    from workbench.runtime.sources import resolve

    source = resolve(settings.model)
    config = source.config
    architecture = metadata.architecture_of(config)
    writer = gguf.GGUFWriter(path, architecture, use_temp_file=True)
    try:
        metadata.write(writer, config, source.folder.name)
        writer.add_quantization_version(2)
        writer.add_file_type(int(getattr(gguf.LlamaFileType, _FILE_TYPES[kind])))
        note = tokenizer.write(writer, source.folder, config)
        _rotary(writer, config)
        tensors, total = _tensors(settings, source, emit, cancelled)
        done = 0
        for name, tensor in tensors:
            if cancelled():
                raise Cancelled("the conversion was cancelled; no file was written")
            _add(writer, name, tensor, config, architecture, kind)
            done += tensor.numel() * tensor.element_size()
            emit(Progress(what="convert", done=done, total=total, detail=name))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return [note] if note else []


_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0",
               "Q4_0": "MOSTLY_Q4_0", "Q4_1": "MOSTLY_Q4_1", "Q5_0": "MOSTLY_Q5_0"}


def _rotary(writer: Any, config: dict[str, Any]) -> None:
    """Llama 3.1's scaling is a list of divisors in the file."""
    import numpy as np

    theta, scaling = metadata.rope_of(config)
    if scaling.get("rope_type") == "llama3":
        found = rope.divisors(scaling, theta, metadata.head_dim(config))
        writer.add_tensor("rope_freqs.weight", np.asarray(found, dtype=np.float32))


def _tensors(settings: Settings, source: Any, emit: Callable[[Event], None],
             cancelled: Callable[[], bool]) -> tuple[Iterator[tuple[str, torch.Tensor]], int]:
    """(transformers' name, tensor) of what the model keeps, tied ones once; and the bytes of all."""
    from workbench.runtime.checkpoint import Checkpoint

    if source.random or source.gguf is not None or not any(source.folder.glob("*.safetensors")):
        return _from_model(settings, emit, cancelled)
    files = Checkpoint.open(source.folder)
    tied = bool(source.config.get("tie_word_embeddings"))
    wanted = [n for n in files.entries if not (tied and n == "lm_head.weight")
              and not n.endswith("rotary_emb.inv_freq")]
    unknown = [n for n in wanted if names.to_gguf(n) is None]
    if unknown:
        raise ModelError(f"{source.folder} has a tensor {unknown[0]!r} that a GGUF file of this "
                         "architecture has no name for")
    return ((n, files.read(n)) for n in wanted), sum(files.entries[n].nbytes for n in wanted)


def _from_model(settings: Settings, emit: Callable[[Event], None], cancelled: Callable[[], bool]
                ) -> tuple[Iterator[tuple[str, torch.Tensor]], int]:
    """Random weights, pickles and other GGUF files: through the runtime's own loading."""
    from workbench.runtime.loading import load_model
    from workbench.settings import Settings

    plain = Settings(model=settings.model, seed=settings.seed).with_({"compute.device": "cpu"})
    model = load_model(plain, emit, cancelled).model
    found = [(n, p) for n, p in model.named_parameters() if names.to_gguf(n)]
    return iter(found), sum(p.numel() * p.element_size() for _, p in found)


def _add(writer: Any, name: str, tensor: torch.Tensor, config: dict[str, Any], architecture: str,
         kind: str) -> None:
    """One tensor. Vectors stay float32; a matrix whose rows are no whole blocks stays F16."""
    theirs = names.to_gguf(name)
    assert theirs is not None
    heads = int(config["num_attention_heads"])
    count = names.heads_of(theirs, architecture, heads,
                           int(config.get("num_key_value_heads") or heads))
    values: np.ndarray = tensor.detach().float().numpy()
    if count:
        values = names.interleave(values, count)
    if values.ndim == 1:
        writer.add_tensor(theirs, values)
        return
    types = package().GGMLQuantizationType
    block = package().GGML_QUANT_SIZES[types[kind]][0]
    chosen = types[kind] if values.shape[1] % block == 0 else types.F16
    writer.add_tensor(theirs, package().quants.quantize(values, chosen), raw_dtype=chosen)


def _through_llama(settings: Settings, path: Path, kind: str, emit: Callable[[Event], None],
                   cancelled: Callable[[], bool]) -> list[str]:
    try:
        import llama_cpp
    except ImportError:
        raise MissingDependency(f"the format {kind} is made by llama.cpp's own quantizer; install "
                                "it with pip install 'inference-workbench[llama-cpp]', or choose one "
                                f"of {', '.join(PLAIN)}") from None
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        middle = Path(folder) / "bf16.gguf"
        notes = _convert(settings, middle, "BF16", emit, cancelled)
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{QUANTIZER[kind]}")
        failed = llama_cpp.llama_model_quantize(str(middle).encode(), str(path).encode(), how)
    if failed:
        raise ModelError(f"llama.cpp could not make {kind} of this model (code {failed}); its rows "
                         "may be no multiple of 256; choose q8_0 or q4_0")
    return notes
