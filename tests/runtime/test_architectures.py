"""Other architectures through the same loop: equality with transformers' generation, speculation,
batches. Sliding windows are shorter than the text, so their masks matter."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

_BASE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.25, "tie_word_embeddings": False, "bos_token_id": 256,
    "eos_token_id": 257, "pad_token_id": 258, "dtype": "float32"}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_GEMMA = {"head_dim": 8, "sliding_window": 12, "query_pre_attn_scalar": 8}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {"head_dim": 8, "num_experts": 4, **_EXPERTS}),
    "mistral": ("MistralForCausalLM", {"head_dim": 8, "sliding_window": 12}),
    "gemma2": ("Gemma2ForCausalLM", _GEMMA),  # soft-capped scores: transformers' own attention
    "gemma3_text": ("Gemma3ForCausalLM", {**_GEMMA, "layer_types": [
        "sliding_attention", "full_attention", "sliding_attention"]}),
    "gpt_oss": ("GptOssForCausalLM", {"head_dim": 8, "sliding_window": 12, "num_local_experts": 4,
                                      "num_experts_per_tok": 2}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", {
        "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1, **_EXPERTS}),
}
PROMPT = "hello world hello"


def opened(tmp_path: Path, config: dict[str, Any]) -> tuple[Any, Any]:
    from workbench.runtime import load
    from workbench.settings import Settings

    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    settings = Settings().with_({
        "model.source": str(path), "model.weights": "random", "weights": "fp32",
        "limits.max_new_tokens": 20, "limits.stop_at_eos": False, "compute.threads": 1})
    return load(settings, lambda event: None), settings


def reference(model: Any) -> list[int]:
    """The same weights, greedy, by transformers alone with eager attention."""
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_config(
        copy.deepcopy(model.loaded.model.config), dtype=torch.float32, attn_implementation="eager")
    state = {**dict(model.loaded.model.named_parameters()),
             **dict(model.loaded.model.named_buffers())}
    other.load_state_dict({n: state[n] for n, _ in other.named_parameters()}, strict=False)
    ids = model.encode(PROMPT)
    out = other.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=0,
                         eos_token_id=None)
    return out[0, len(ids):].tolist()


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_an_architecture_decodes_every_way(kind: str, tmp_path: Path) -> None:
    architecture, changes = CONFIGS[kind]
    model, settings = opened(tmp_path, {
        **_BASE, "architectures": [architecture], "model_type": kind, **changes})

    def tokens(prompts: list[str], **more: Any) -> list[list[int]]:
        chosen = settings.with_({k.replace("__", "."): v for k, v in more.items()})
        return model.generate(prompts, chosen, lambda e: None, lambda: False).tokens

    plain = tokens([PROMPT])
    assert plain[0] == reference(model)
    assert tokens([PROMPT], decoding="prompt_lookup") == plain
    assert tokens([PROMPT], decoding="draft_model", decoding__draft=settings.model.source) == plain
    assert tokens([PROMPT, "x"], limits__batch=2)[0] == plain[0]
    three = [PROMPT, "x", "hello"]
    alone = [*plain, *(tokens([p])[0] for p in three[1:])]
    for schedule in ("ragged", "equal", "grouped"):
        more = {"limits__batch": 3, "decoding__schedule": schedule, "decoding__fallback": False}
        assert tokens(three, decoding="token_recycling", **more) == alone
    assert tokens(three, decoding="draft_model", decoding__draft=settings.model.source,
                  limits__batch=3) == alone
    assert len(tokens([PROMPT], kv="int8")[0]) == 20


def test_recurrent_layers_are_refused() -> None:
    from types import SimpleNamespace

    from workbench.errors import ModelError
    from workbench.runtime.forward import Forward

    text = SimpleNamespace(layer_types=["linear_attention", "full_attention"])
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))
    with pytest.raises(ModelError, match="linear attention layers"):
        Forward(model, torch.device("cpu"), torch.float32)
