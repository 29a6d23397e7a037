"""Flags of ``llama-server`` (checked against llama.cpp's server README, 2026)."""

from __future__ import annotations

import shlex
from typing import Any

from workbench.export.shell import Command, model_variable
from workbench.settings import Settings

#: Technique -> (GGUF type, how its numbers compare).
_GGUF = {
    "bf16": ("BF16", "the same numbers"),
    "fp32": ("F32", "the same numbers"),
    "int8": ("Q8_0", "8 bits in blocks of 32 instead of one scale per channel: 8.5 bits per weight"),
    "int4": ("Q4_1", "4 bits, round to nearest, in blocks of 32 with a 16-bit scale and offset: "
                     "5 bits per weight"),
    "int4 symmetric": ("Q4_0", "4 bits, round to nearest, symmetric, in blocks of 32 with a 16-bit "
                               "scale: 4.5 bits per weight"),
}


def command(settings: Settings) -> str:
    """A shell script: how to make the GGUF file, comments, then the command."""
    c = Command(settings, "llama-server")
    c.raw("llama-server")
    _weights(c)
    _cache(c)
    _decoding(c)
    _sampling(c)
    limits = settings.limits
    c.flag("--n-predict", limits.max_new_tokens, by="limits.max_new_tokens")
    c.flag("--parallel", limits.batch, by="limits.batch")
    c.settle("limits.stop_at_eos")
    if not limits.stop_at_eos:
        c.flag("--ignore-eos")
    _device(c)
    c.settle(*(p for p in c.settings.flat() if p.startswith("telemetry.")), "quality.level")
    if settings.tiers.name() != "resident":
        c.note(f"tiers={settings.tiers}: llama-server places whole layers, it does not stream them; "
               "lower --n-gpu-layers until the model fits", by=("tiers",))
    return c.text()


def _weights(c: Command) -> None:
    model, weights = c.settings.model, c.settings.weights
    name = weights.name() + (" symmetric" if getattr(weights, "symmetric", False) else "")
    kind, how = _GGUF.get(name, ("BF16", "llama.cpp has no counterpart of this method"))
    source = model_variable(c, "MODEL", model.source)
    c.before(f"python convert_hf_to_gguf.py {source} --outtype bf16 --outfile model-BF16.gguf"
             if kind != "F32" else
             f"python convert_hf_to_gguf.py {source} --outtype f32 --outfile model-F32.gguf")
    if kind not in ("BF16", "F32"):
        c.before(f"llama-quantize model-BF16.gguf model-{kind}.gguf {kind}")
    c.note(f"weights={weights}: GGUF {kind}, {how}",
           by=("weights", "weights.group", "weights.symmetric") if weights.name() in _GGUF else ())
    c.note("convert_hf_to_gguf.py and llama-quantize come with llama.cpp; the converter must know "
           "the model's tokenizer", by="model.source")
    c.flag("--model", f"model-{kind}.gguf")


def _cache(c: Command) -> None:
    kv = c.settings.kv.name()
    if kv == "full":
        c.flag("--cache-type-k", "bf16", "--cache-type-v", "bf16", by="kv")
    elif kv == "int8":
        c.flag("--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--flash-attn", "on", by="kv")
        c.note("kv=int8: q8_0 keeps 8 bits in blocks of 32; a quantized V cache needs flash attention")


def _decoding(c: Command) -> None:
    decoding: Any = c.settings.decoding
    if decoding.name() == "draft_model":
        draft = model_variable(c, "DRAFT", decoding.draft, draft=True)
        c.before(f"python convert_hf_to_gguf.py {draft} --outtype bf16 --outfile draft-BF16.gguf")
        c.flag("--spec-type", "draft-simple", "--spec-draft-model", "draft-BF16.gguf",
               "--spec-draft-n-max", decoding.gamma,
               by=("decoding", "decoding.draft", "decoding.gamma"))
    elif decoding.name() == "prompt_lookup":
        c.flag("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", decoding.ngram,
               "--spec-ngram-simple-size-m", decoding.span,
               by=("decoding", "decoding.ngram", "decoding.span"))
        c.note("ngram-simple looks for one match length; prompt lookup here tries shorter ones too")
    elif decoding.name() == "plain":
        c.settle("decoding")


def _sampling(c: Command) -> None:
    s = c.settings.sampling
    c.flag("--temp", f"{s.temperature:g}", by="sampling.temperature")
    c.flag("--top-k", s.top_k, by="sampling.top_k")
    c.flag("--top-p", f"{s.top_p:g}", by="sampling.top_p")
    c.flag("--min-p", "0")
    c.flag("--seed", c.settings.seed % 2**32, by="seed")


def _device(c: Command) -> None:
    compute = c.settings.compute
    if compute.device == "cpu":
        c.flag("--n-gpu-layers", 0, by="compute.device")
    elif compute.device == "auto":
        c.flag("--n-gpu-layers", "auto", by="compute.device")
    else:
        c.flag("--n-gpu-layers", "all", by="compute.device")
        index = compute.device.partition(":")[2]
        if index:
            c.raw(f"--main-gpu {shlex.quote(index)}")
    if compute.threads:
        c.flag("--threads", compute.threads, by="compute.threads")
