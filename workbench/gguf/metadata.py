"""A model's config.json as a GGUF file's metadata, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError
from workbench.gguf import rope
from workbench.gguf.names import ARCHITECTURES

if TYPE_CHECKING:
    from workbench.gguf.read import File

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def architecture_of(config: dict[str, Any]) -> str:
    """What the file will call it. Raises ModelError for one that is not written yet."""
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES or config.get("num_local_experts") or config.get("masked_diffusion"):
        raise ModelError(f"GGUF files are written for {', '.join(ARCHITECTURES)} models, not for "
                         f"{kind}; llama.cpp's convert_hf_to_gguf.py knows more of them")
    return ARCHITECTURES[kind]


def head_dim(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_of(config: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """(theta, the scaling's parameters or {}); older and newer configs name them differently.

    Raises ModelError for a scaling that the file's format cannot say."""
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(given.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "default":
        return theta, {}
    if kind not in ("llama3", "linear"):
        raise ModelError(f"a GGUF file with the rotary scaling {kind!r} is not written yet; default, "
                         "linear and llama3 are")
    return theta, {**given, "rope_type": kind}


def write(writer: Any, config: dict[str, Any], name: str) -> None:
    """Everything but tensors and tokenizer. ``writer``: a ``gguf.GGUFWriter``."""
    heads = int(config["num_attention_heads"])
    theta, scaling = rope_of(config)
    writer.add_name(name)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config.get("max_position_embeddings", 2048)))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_rope_dimension_count(head_dim(config))
    writer.add_rope_freq_base(theta)
    if scaling.get("rope_type") == "linear":
        from workbench.gguf import package

        writer.add_rope_scaling_type(package().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(scaling["factor"]))


def config_of(file: File) -> dict[str, Any]:
    """A config.json for transformers. Raises ModelError for what this runtime does not open."""
    kind = str(file.fields.get("general.architecture", ""))
    if kind not in _CLASSES or file.get("expert_count", 0):
        what = f"{kind} model with experts" if kind in _CLASSES else f"{kind or 'nameless'} model"
        raise ModelError(f"{file.path} holds a {what}; the workbench opens GGUF files of "
                         f"{', '.join(_CLASSES)}")
    heads, hidden = int(file.need("attention.head_count")), int(file.need("embedding_length"))
    token = "tokenizer.ggml.{}_token_id"
    config = {
        "architectures": [_CLASSES[kind]], "model_type": kind, "hidden_act": "silu",
        "hidden_size": hidden, "num_hidden_layers": int(file.need("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(file.get("attention.head_count_kv", heads)),
        "head_dim": int(file.get("attention.key_length", hidden // heads)),
        "intermediate_size": int(file.need("feed_forward_length")),
        "max_position_embeddings": int(file.get("context_length", 2048)),
        "rms_norm_eps": float(file.get("attention.layer_norm_rms_epsilon", 1e-6)),
        "vocab_size": file.tensor("token_embd.weight").shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "rope_parameters": _rope(file), "dtype": "bfloat16"}
    if kind == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    for name in ("bos", "eos", "padding"):
        value = file.fields.get(token.format(name))
        if value is not None:
            config[f"{'pad' if name == 'padding' else name}_token_id"] = int(value)
    return config


def _rope(file: File) -> dict[str, Any]:
    theta = float(file.get("rope.freq_base", 10000.0))
    scaling, factor = file.get("rope.scaling.type", "none"), file.get("rope.scaling.factor", None)
    if "rope_freqs.weight" in file.tensors:
        found = rope.parameters(file.dequantized("rope_freqs.weight").tolist(), theta)
        if found is None:
            raise ModelError(f"{file.path} lists rotary frequencies that no rule of this runtime "
                             "gives; open the model's safetensors instead")
        return found
    if scaling == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if scaling == "linear" and factor:
        return {"rope_type": "linear", "factor": float(factor), "rope_theta": theta}
    raise ModelError(f"{file.path} asks for the rotary scaling {scaling!r}, which is not read yet; "
                     "open the model's safetensors instead")
