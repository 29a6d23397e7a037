"""Flags of ``vllm serve`` (checked against the documentation of vLLM 0.14)."""

from __future__ import annotations

import json
import shlex
from typing import Any

from workbench.export.shell import Command, model_variable
from workbench.settings import Settings

_WEIGHTS = {
    "int8": "weights=int8 (round to nearest, per channel): vLLM loads 8-bit weights from a checkpoint; "
            "make one with llm-compressor (W8A16) and serve that",
    "int4": "weights=int4(group={group}), round to nearest: vLLM loads 4-bit weights from a checkpoint; "
            "make one with llm-compressor (RTN, {scheme}, group {group}) and serve that; "
            "--quantization bitsandbytes packs while loading, but as NF4, whose numbers differ",
}


def command(settings: Settings) -> str:
    """A shell script: comments for what has no counterpart, then the command."""
    c = Command(settings, "vllm serve")
    c.raw("vllm serve " + model_variable(c, "MODEL", settings.model.source), by="model.source")
    _model(c)
    _weights(c)
    _cache(c)
    _decoding(c)
    _sampling(c)
    limits = settings.limits
    c.flag("--max-num-seqs", limits.batch, by="limits.batch")
    c.flag("--seed", settings.seed % 2**32, by="seed")
    c.note(f"max_tokens={limits.max_new_tokens} belongs to each request", by="limits.max_new_tokens")
    if not limits.stop_at_eos:
        c.note("ignore_eos=true belongs to each request", by="limits.stop_at_eos")
    _device(c)
    c.settle(*(p for p in c.settings.flat() if p.startswith("telemetry.")), "quality.level")
    return c.text()


def _model(c: Command) -> None:
    model = c.settings.model
    c.flag("--load-format", "dummy" if model.weights == "random" else
           "auto" if model.allow_pickle else "safetensors", by=("model.weights", "model.allow_pickle"))
    if model.trust_remote_code:
        c.flag("--trust-remote-code", by="model.trust_remote_code")


def _weights(c: Command) -> None:
    weights = c.settings.weights
    c.flag("--dtype", {"fp32": "float32"}.get(weights.name(), "bfloat16"),
           by="weights" if weights.name() in ("bf16", "fp32") else ())
    if weights.name() in _WEIGHTS:
        values: dict[str, Any] = {"group": "", **weights.to_dict()}
        values["scheme"] = "W4A16" if values.get("symmetric") else "W4A16_ASYM"
        c.note(_WEIGHTS[weights.name()].format(**values),
               by=("weights", "weights.group", "weights.symmetric"))


def _cache(c: Command) -> None:
    kv = c.settings.kv.name()
    if kv == "full":
        c.flag("--kv-cache-dtype", "auto", by="kv")
    elif kv == "int8":
        c.flag("--kv-cache-dtype", "fp8", by="kv")
        c.note("kv=int8: vLLM has no int8 cache; fp8 has the same bytes and other rounding")


def _decoding(c: Command) -> None:
    decoding: Any = c.settings.decoding
    if decoding.name() == "draft_model":
        config: dict[str, Any] = {"num_speculative_tokens": decoding.gamma}
        word = model_variable(c, "DRAFT", decoding.draft, draft=True)
        if word.startswith('"$'):
            text = json.dumps({"model": "@", **config}).replace('"', '\\"')
            c.raw('--speculative-config "' + text.replace("@", "$DRAFT") + '"',
                  by=("decoding", "decoding.draft", "decoding.gamma"))
        else:
            c.flag("--speculative-config", json.dumps({"model": decoding.draft, **config}),
                   by=("decoding", "decoding.draft", "decoding.gamma"))
    elif decoding.name() == "prompt_lookup":
        c.flag("--speculative-config", json.dumps({
            "method": "ngram", "num_speculative_tokens": decoding.span,
            "prompt_lookup_max": decoding.ngram}),
            by=("decoding", "decoding.span", "decoding.ngram"))
    elif decoding.name() == "plain":
        c.settle("decoding")


def _sampling(c: Command) -> None:
    s = c.settings.sampling
    c.flag("--generation-config", "vllm")
    c.flag("--override-generation-config", json.dumps(
        {"temperature": s.temperature, "top_p": s.top_p, "top_k": s.top_k or -1}),
        by=("sampling.temperature", "sampling.top_p", "sampling.top_k"))


def _device(c: Command) -> None:
    compute = c.settings.compute
    if compute.device == "auto":
        c.settle("compute.device")
    elif compute.device == "cpu":
        c.note("compute.device=cpu: install vLLM's CPU build, there is no flag", by="compute.device")
    else:
        index = compute.device.partition(":")[2] or "0"
        c.before(f"export CUDA_VISIBLE_DEVICES={shlex.quote(index)}")
        c.settle("compute.device")
    if compute.threads:
        c.before(f"export OMP_NUM_THREADS={compute.threads}")
        c.settle("compute.threads")
