"""A 1.1 B-parameter Llama checkpoint with random bfloat16 weights, for benchmarks of speed.

22 layers, hidden 2048, 32 heads, 4 key heads, intermediate 5632, vocabulary 32000: 2.2 GB in one file.

    python benchmarks/runtime/shape_1b.py /tmp/workbench-1b [--layers 22]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from workbench.runtime.tokens import byte_tokenizer

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
    "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
    "intermediate_size": 5632, "vocab_size": 32000, "max_position_embeddings": 16384,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "initializer_range": 0.02, "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}


def tensors(layers: int) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors; a seed per run of the script, normal with deviation 0.02."""
    generator = torch.Generator().manual_seed(0)
    h, kv, mlp, vocab = 2048, 256, 5632, 32000

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.02).bfloat16()

    made = {"model.embed_tokens.weight": draw(vocab, h), "lm_head.weight": draw(vocab, h),
            "model.norm.weight": torch.ones(h, dtype=torch.bfloat16)}
    for i in range(layers):
        at = f"model.layers.{i}."
        for name, rows, columns in (("q", h, h), ("k", kv, h), ("v", kv, h), ("o", h, h)):
            made[f"{at}self_attn.{name}_proj.weight"] = draw(rows, columns)
        for name, rows, columns in (("gate", mlp, h), ("up", mlp, h), ("down", h, mlp)):
            made[f"{at}mlp.{name}_proj.weight"] = draw(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"{at}{name}.weight"] = torch.ones(h, dtype=torch.bfloat16)
    return made


def write(folder: Path, layers: int = 22) -> Path:
    """The checkpoint in ``folder``; kept when it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f"model-{layers}.done"
    if not done.exists():
        (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
        byte_tokenizer(CONFIG["vocab_size"]).save_pretrained(folder)
        save_file(tensors(layers), folder / "model.safetensors")
        done.touch()
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=22)
    arguments = parser.parse_args()
    print(write(arguments.folder, arguments.layers))
