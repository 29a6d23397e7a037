"""A wider and deeper copy of a Llama-style model that computes the same function.

    python -m workbench.zoo.recipes.widen SOURCE OUT --width 3072 --ff 4096 --layers 8

Net2Net (Chen, Goodfellow, Shlens 2016, arXiv:1511.05641, sections 3.1 and 3.2) for RMS-normalised
transformers. With k copies of every channel of the residual stream its mean square, and so every RMSNorm,
is what it was; a matrix that reads the stream has each column divided among the k copies. Attention heads
and the neurons of the feed-forward part are copied alike. Copies lie in whole blocks ``[W/k, W/k, ...]``,
so group-wise quantization with a group that divides the source's width rounds the copy exactly as it
rounds the source. Factors that are powers of two divide exactly in floating point; others round. Added
layers are identities: their two output projections are zero, and everything before them is real work.

Such a copy has a large model's cost and a small model's text: real acceptance of drafts by a target whose
forward is bound by memory. It is no large model, and its ``config.json`` says so (``widened_copy_of``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.errors import ModelError, SettingsError

#: Architectures whose tensors the rules below cover.
KINDS = ("llama", "mistral", "qwen2", "qwen3")
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
_SMALL = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
          "vocab.json", "merges.txt", "tokenizer.model")


@dataclass(frozen=True)
class Plan:
    """By what factors the parts grow. ``layer_of[i]``: the source's layer, None for an identity."""

    width: int
    ff: int
    layer_of: tuple[int | None, ...]


def plan(config: dict[str, Any], width: int, layers: int, ff: int | None = None) -> Plan:
    """Check the wanted sizes against the source's ``config``; raises SettingsError."""
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    had = int(config["num_hidden_layers"])
    if width < hidden or width % hidden:
        raise SettingsError(f"--width {width} is no multiple of the source's width {hidden}; "
                            f"choose for example {hidden * max(2, width // hidden)}")
    wanted = inner * (width // hidden) if ff is None else ff
    if wanted < inner or wanted % inner:
        raise SettingsError(f"--ff {wanted} is no multiple of the source's {inner}; "
                            f"choose for example {inner * max(1, wanted // inner)}")
    if layers < had:
        raise SettingsError(f"--layers {layers} is fewer than the source's {had}; a copy can only grow")
    extra = layers - had  # identities lie between the source's layers, as evenly as can be
    order: list[int | None] = []
    for layer in range(had):
        order.append(layer)
        order += [None] * (extra * (layer + 1) // had - extra * layer // had)
    return Plan(width // hidden, wanted // inner, tuple(order))


def widened_config(config: dict[str, Any], how: Plan, source: str) -> dict[str, Any]:
    """The copy's ``config.json``, which names what it is."""
    made = dict(config)
    made["head_dim"] = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    made["hidden_size"] = config["hidden_size"] * how.width
    made["intermediate_size"] = config["intermediate_size"] * how.ff
    made["num_attention_heads"] = config["num_attention_heads"] * how.width
    kv = config.get("num_key_value_heads") or config["num_attention_heads"]
    made["num_key_value_heads"] = kv * how.width
    made["num_hidden_layers"] = len(how.layer_of)
    if config.get("layer_types"):
        made["layer_types"] = [config["layer_types"][0]] * len(how.layer_of)
    identities = [i for i, layer in enumerate(how.layer_of) if layer is None]
    made["widened_copy_of"] = {"source": source, "width_factor": how.width, "ff_factor": how.ff,
                               "identity_layers": identities,
                               "note": "function-preserving copy: the source's text at a larger model's cost"}
    return made


def grow(name: str, tensor: torch.Tensor, how: Plan) -> torch.Tensor:
    """One tensor of the copy from the source's; ``name`` without its layer. Raises ModelError."""
    k, f = how.width, how.ff
    part = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    if part in ("q_norm", "k_norm"):  # over one head, which stays as wide as it was
        return tensor
    if part in ("q_proj", "k_proj", "v_proj"):
        return tensor.repeat(k) if tensor.ndim == 1 else _tiled(tensor, k, k)
    if part in ("gate_proj", "up_proj"):
        return tensor.repeat(f) if tensor.ndim == 1 else _tiled(tensor, f, k)
    if part == "o_proj":
        return tensor.repeat(k) if tensor.ndim == 1 else _tiled(tensor, k, k)
    if part == "down_proj":
        return tensor.repeat(k) if tensor.ndim == 1 else _tiled(tensor, k, f)
    if part in ("input_layernorm", "post_attention_layernorm"):
        return tensor.repeat(k)
    if part == "norm":  # the head reads k copies; a tied one cannot be divided, the norm before it can
        return (tensor.float() / k).to(tensor.dtype).repeat(k)
    if part in ("embed_tokens", "lm_head"):
        return tensor.repeat(1, k)
    raise ModelError(f"cannot widen the tensor {name!r}: only Llama-style layers "
                     f"({', '.join(KINDS)}) are known")


def _tiled(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """``rows`` copies of the outputs; every input's weight divided among its ``columns`` copies."""
    return (matrix.float() / columns).to(matrix.dtype).repeat(rows, columns)


class Source:
    """The tensors of a checkpoint folder, one at a time; one file or several shards."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{folder} holds no .safetensors file; only such checkpoints can be widened")
        self._open = [safe_open(str(file), framework="pt") for file in files]
        self._where = {name: handle for handle in self._open for name in handle.keys()}  # noqa: SIM118

    def names(self) -> list[str]:
        return sorted(self._where)

    def get(self, name: str) -> torch.Tensor:
        return self._where[name].get_tensor(name)

    def facts(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """(dtype, shape), without keeping the tensor."""
        tensor = self.get(name)
        return tensor.dtype, tuple(tensor.shape)


@dataclass(frozen=True)
class Entry:
    """One tensor to be written: its name, where it comes from, whether it is zero."""

    name: str
    source: str
    zero: bool = False


def entries(source: Source, how: Plan) -> Iterator[Entry]:
    """The copy's tensors in the order of the model."""
    names = source.names()
    outside = [n for n in names if ".layers." not in n]
    layers: dict[int, list[str]] = {}
    for name in set(names) - set(outside):
        layers.setdefault(int(name.partition(".layers.")[2].partition(".")[0]), []).append(name)
    yield from (Entry(n, n) for n in outside)
    last = 0
    for place, layer in enumerate(how.layer_of):
        last = last if layer is None else layer
        for name in sorted(layers[last]):
            head, _, rest = name.partition(".layers.")
            tail = rest.partition(".")[2]
            zero = layer is None and tail.startswith(("self_attn.o_proj", "mlp.down_proj"))
            yield Entry(f"{head}.layers.{place}.{tail}", name, zero)


def write(source: Source, how: Plan, file: Path, told: Callable[[int, int], None]) -> int:
    """Stream the copy into one safetensors file; at most one tensor is in memory. Its parameters.

    ``told(done, total)`` in bytes; what it raises (Cancelled) leaves no file behind."""
    listed = list(entries(source, how))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = count = 0
    sizes: dict[str, tuple[torch.dtype, list[int]]] = {}
    for entry in listed:
        if entry.source not in sizes:
            dtype, shape = source.facts(entry.source)
            with torch.device("meta"):
                made = grow(entry.source, torch.empty(shape, dtype=dtype), how)
            sizes[entry.source] = (dtype, list(made.shape))
        dtype, grown = sizes[entry.source]
        if dtype not in _DTYPES:
            raise ModelError(f"{entry.source} is stored as {dtype}; widen a bf16, fp16 or fp32 checkpoint")
        numbers = int(torch.Size(grown).numel())
        size = numbers * dtype.itemsize
        header[entry.name] = {"dtype": _DTYPES[dtype], "shape": grown, "data_offsets": [at, at + size]}
        at, count = at + size, count + numbers
    _check_room(file.parent, at)
    part = file.with_name(file.name + ".partial")
    try:
        with part.open("wb") as out:
            text = json.dumps(header, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            out.write(len(text).to_bytes(8, "little") + text)
            done = 0
            for entry in listed:
                told(done, at)
                tensor = grow(entry.source, source.get(entry.source), how).contiguous()
                if entry.zero:
                    tensor.zero_()
                done += out.write(tensor.view(torch.uint8).numpy().data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    told(at, at)
    return count


def _check_room(folder: Path, size: int) -> None:
    from workbench.units import format_bytes

    free = shutil.disk_usage(folder).free
    if free < size * 1.05:
        raise ModelError(f"{folder} has {format_bytes(free)} free and the copy takes {format_bytes(size)}; "
                         "choose another folder or a smaller width")


def widen(source: Path, out: Path, width: int, layers: int | None = None, ff: int | None = None, *,
          told: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
    """Write the copy of the folder ``source`` to the new folder ``out``; what was made.

    ``width``: the residual stream's; ``ff``: the feed-forward part's (default: grown like the width);
    ``layers``: in all. Raises SettingsError for sizes that cannot be, ModelError for other checkpoints."""
    config_at = source / "config.json"
    if not config_at.is_file():
        raise ModelError(f"{source} is no model folder: it has no config.json")
    config = json.loads(config_at.read_text("utf-8"))
    if config.get("model_type") not in KINDS:
        raise ModelError(f"cannot widen a {config.get('model_type')!r} model; known are {', '.join(KINDS)}")
    if (out / "config.json").exists():
        raise SettingsError(f"{out} holds a model already; name a new folder")
    how = plan(config, width, int(config["num_hidden_layers"]) if layers is None else layers, ff)
    out.mkdir(parents=True, exist_ok=True)
    parameters = write(Source(source), how, out / "model.safetensors", told)
    for name in _SMALL:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    made = widened_config(config, how, source.name)
    (out / "README.md").write_text(_card(source.name, made, parameters), "utf-8")
    # Last, because a folder with a config is a model.
    (out / "config.json").write_text(json.dumps(made, indent=2) + "\n", "utf-8")
    return {"folder": str(out), "parameters": parameters, "config": made}


def _card(source: str, config: dict[str, Any], parameters: int) -> str:
    facts = config["widened_copy_of"]
    return (f"# A widened copy of {source}\n\n"
            f"{parameters / 1e6:.0f} M parameters that compute what {source} computes: every channel "
            f"{facts['width_factor']} times, every feed-forward neuron {facts['ff_factor']} times, "
            f"{len(facts['identity_layers'])} layers that change nothing. It costs what a model of this size "
            "costs and writes what the source writes, up to rounding. Made to measure speculation where a "
            "forward is bound by memory; as a language model it is no better than its source.\n")


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--ff", type=int)
    parser.add_argument("--layers", type=int)
    given = parser.parse_args()
    made = widen(given.source, given.out, given.width, given.layers, given.ff)
    print(json.dumps({k: v for k, v in made.items() if k != "config"}))


if __name__ == "__main__":
    main()
