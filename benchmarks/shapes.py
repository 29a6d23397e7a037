"""Model shapes for benchmarks, filled with random numbers, and their GGUF files.

    python benchmarks/shapes.py llama-1.1b WORK_FOLDER [--gguf f16 q8_0 q4_0]

Weights are normal with the config's initializer_range and seed 0: speed does not depend on their values,
except that no activation may overflow, which a fresh initialization guarantees. The tokenizer is the
bundled one, with names for the ids that it does not have (some engines insist on a byte-level
BPE with merges).
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    # TinyLlama's: 22 layers of 2048 with 4 KV heads, 1.1 B parameters.
    "llama-1.1b": {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32,
                   "num_key_value_heads": 4, "intermediate_size": 5632, "vocab_size": 32000,
                   "max_position_embeddings": 16384},
    # Llama 3's 8 B: 32 layers of 4096 with 8 KV heads.
    "llama-8b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
                 "max_position_embeddings": 16384},
    # The same proportions as the first's, small enough for a test of the script.
    "llama-60m": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
                  "num_key_value_heads": 2, "intermediate_size": 1408, "vocab_size": 32000,
                  "max_position_embeddings": 16384},
}


def config(name: str) -> dict[str, Any]:
    """A transformers config.json."""
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
            "initializer_range": 0.02, "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
            **SHAPES[name]}


def checkpoint(name: str, folder: Path) -> Path:
    """The checkpoint's folder, made when it is not there: one bfloat16 safetensors file."""
    from safetensors.torch import save_file

    place = folder / name
    if (place / "model.safetensors").is_file():
        return place
    place.mkdir(parents=True, exist_ok=True)
    made = config(name)
    (place / "tokenizer.json").write_text(json.dumps(tokenizer(made["vocab_size"])))
    part = place / "model.part"
    save_file(dict(_tensors(made)), part, metadata={"format": "pt"})
    (place / "config.json").write_text(json.dumps(made, indent=1))
    part.replace(place / "model.safetensors")
    return place


def tokenizer(vocab: int) -> dict[str, Any]:
    """The bundled tokenizer.json with ``vocab`` tokens."""
    from workbench import zoo

    found: dict[str, Any] = json.loads((zoo.path(zoo.DEFAULT) / "tokenizer.json").read_text())
    table = found["model"]["vocab"]
    table.update({f"<{i}>": i for i in range(len(table), vocab)})
    return found


def _tensors(config: dict[str, Any]) -> Any:
    import torch

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden),
             "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, hidden),
             "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
             "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,),
             "post_attention_layernorm": (hidden,)}
    shapes = {"model.embed_tokens": (config["vocab_size"], hidden),
              **{f"model.layers.{i}.{n}": s for i in range(config["num_hidden_layers"])
                 for n, s in layer.items()},
              "model.norm": (hidden,), "lm_head": (config["vocab_size"], hidden)}
    for name, shape in shapes.items():
        if len(shape) == 1:
            yield f"{name}.weight", torch.ones(shape, dtype=torch.bfloat16)
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        yield f"{name}.weight", torch.empty(shape, dtype=torch.bfloat16).normal_(
            0.0, config["initializer_range"], generator=generator)


def gguf_file(name: str, folder: Path, kind: str) -> Path:
    """The GGUF file of a shape, made when it is not there."""
    from workbench.export import gguf
    from workbench.settings import Settings

    path = folder / f"{name}-{kind}.gguf"
    if not path.is_file():
        place = checkpoint(name, folder)
        gguf.write(Settings().with_({"model.source": str(place)}), path, kind)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", nargs="*", default=[], help="f16 bf16 q8_0 q4_0 ...")
    given = parser.parse_args()
    print(checkpoint(given.name, given.folder))
    for kind in given.gguf:
        print(gguf_file(given.name, given.folder, kind))


if __name__ == "__main__":
    main()
