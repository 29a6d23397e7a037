"""A model's shape, read from its ``config.json`` without torch: what bytes and FLOPs follow from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import ModelError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "int8": 1}


@dataclass(frozen=True)
class ModelShape:
    """Decoder-only shape. Counts are parameters, not bytes."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    max_positions: int
    dtype: str
    experts: int = 0
    experts_per_token: int = 0
    sliding_window: int = 0
    canvas: int = 0  # masked-diffusion models: places filled at once; 0: written from left to right
    latent_kv: int = 0  # MLA: elements per token and layer instead of 2 * kv_heads * head_dim

    def linears(self) -> list[tuple[str, int, int]]:
        """(name, rows, columns) of one decoder layer's matrices, experts counted one by one."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [("q_proj", q, self.hidden), ("k_proj", kv, self.hidden),
                     ("v_proj", kv, self.hidden), ("o_proj", self.hidden, q)]
        mlp = [("gate_proj", self.intermediate, self.hidden),
               ("up_proj", self.intermediate, self.hidden),
               ("down_proj", self.hidden, self.intermediate)]
        return attention + mlp * max(1, self.experts)

    @property
    def layer_parameters(self) -> int:
        return sum(r * c for _, r, c in self.linears())

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All matrices; norms (a few thousand) included."""
        norms = (2 * self.layers + 1) * self.hidden
        heads = self.embedding_parameters * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + heads + norms

    @property
    def kv_elements(self) -> int:
        """Cached elements per token over all layers."""
        per_layer = self.latent_kv or 2 * self.kv_heads * self.head_dim
        return self.layers * per_layer

    @property
    def kind(self) -> str:
        return "mla" if self.latent_kv else "moe" if self.experts else "dense"


#: What GPT-2-style configs call things.
_OLD_NAMES = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
              "n_positions": "max_position_embeddings", "n_inner": "intermediate_size"}


def from_config(config: dict[str, Any]) -> ModelShape:
    """From the parsed ``config.json`` of a decoder-only transformers model."""
    config = {**config, **config.get("text_config", {})}
    config = {**{new: config[old] for old, new in _OLD_NAMES.items() if config.get(old)}, **config}
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        latent = config["kv_lora_rank"] + config["qk_rope_head_dim"] if "kv_lora_rank" in config else 0
        return ModelShape(
            architecture=(config.get("architectures") or [config.get("model_type", "unknown")])[0],
            layers=config["num_hidden_layers"], hidden=hidden, heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            intermediate=config.get("moe_intermediate_size") or config.get("intermediate_size")
            or 4 * hidden,
            vocab=config["vocab_size"], tied=bool(config.get("tie_word_embeddings", False)),
            max_positions=config.get("max_position_embeddings", 2048),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            experts=config.get("num_experts") or config.get("n_routed_experts")
            or config.get("num_local_experts") or 0,
            experts_per_token=config.get("num_experts_per_tok") or 0,
            sliding_window=(config.get("sliding_window") or 0)
            if config.get("use_sliding_window", True) else 0,
            latent_kv=latent, canvas=(config.get("masked_diffusion") or {}).get("canvas", 0),
        )
    except KeyError as missing:
        raise ModelError(
            f"the config has no {missing}, so this is not a decoder-only language model that the "
            "workbench knows; Llama-, Qwen-, Mistral- and GPT-style configs work") from None


def from_file(path: str | Path) -> ModelShape:
    """From a ``config.json``, a folder that holds one, or a ``.gguf`` file."""
    path = Path(path)
    if path.suffix == ".gguf" and path.is_file():
        from workbench.gguf import metadata
        from workbench.gguf.read import open_file

        return from_config(metadata.config_of(open_file(path)))
    path = path / "config.json" if path.is_dir() else path
    try:
        return from_config(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelError(f"there is no {path.name} in {path.parent}; give a model folder, a "
                         "config.json, or a hub id like org/name") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not valid JSON ({error})") from None
