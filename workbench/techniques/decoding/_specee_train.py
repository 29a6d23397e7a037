"""Predictors for the model that is loaded: trained on its own greedy texts, once, in seconds.

The texts begin like the bundled evaluation documents (never like the bundled prompts, on which agreement is
measured), go on as the model says, and are read once by the draft for the candidates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.techniques.decoding._predictors import Predictors, features, train

if TYPE_CHECKING:
    import torch

_TEXTS, _BEGIN, _TOKENS = 32, 12, 96


def predictors_for(runtime: Any, draft: Any, candidates: int) -> Predictors:
    """Those of this model, draft and K: from the cache, else trained now, with progress. Raises Cancelled."""
    path = kept_in(runtime, draft.name, candidates)
    if path.is_file():
        return Predictors.load(path)
    from workbench.events import Note, Progress

    def said(done: int, total: int) -> None:
        runtime.emit(Progress(what="training early-exit predictors", done=done, total=total))

    runtime.emit(Note(text="training SpecEE's predictors on this model's own texts; they are kept for the "
                           "next run"))
    found, settled = examples(runtime, draft, candidates, said)
    made = train(found, settled, candidates, said, runtime.guard.check)
    made.save(path)
    return made


def kept_in(runtime: Any, draft: str, candidates: int) -> Path:
    """Where the predictors of this model, its weights' format and draft are kept."""
    from workbench.machine import home

    settings = runtime.settings
    about = {"model": settings.model.to_dict(), "weights": settings.weights.to_dict(), "draft": draft,
             "candidates": candidates, "seed": settings.seed if settings.model.weights == "random" else 0}
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Path(home()) / "cache" / "specee" / f"{key}.safetensors"


def examples(runtime: Any, draft: Any, candidates: int, said: Callable[[int, int], None]
             ) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """``features[layer]`` float32 [n, 3 K] and ``settled[layer]`` bool [n]: the layer's answer is the last
    layer's, and is among the candidates."""
    import torch

    model = runtime.model
    begins = beginnings(model)
    ids, states = own_texts(model, begins, runtime.guard, said)
    guesses = _guesses(draft, ids, candidates, runtime.guard)  # [B, n - 1, K]
    rows, answers = _BEGIN - 1, ids[:, _BEGIN:]
    decoder, head = model.loaded.model.get_decoder(), model.loaded.model.get_output_embeddings()
    found: dict[int, torch.Tensor] = {}
    settled: dict[int, torch.Tensor] = {}
    before = None
    chosen = guesses[:, rows:]
    known = (chosen == answers[..., None]).any(-1)
    for layer in sorted(states):
        runtime.guard.check()
        stream = states[layer][:, rows:rows + answers.shape[1]]
        logits = torch.cat([head(decoder.norm(part.to(model.dtype))).float()[None] for part in stream])
        found[layer], before = features(logits.gather(-1, chosen), before)
        found[layer] = found[layer].flatten(0, 1)
        settled[layer] = ((logits.argmax(-1) == answers) & known).flatten()
    return found, settled


def beginnings(model: Any) -> torch.Tensor:
    """int64 [texts, 12]: windows of the bundled evaluation documents."""
    import torch

    from workbench import zoo

    found: list[list[int]] = []
    documents = [model.encode(d.text[:6000]) for d in zoo.evaluation_text()]
    for place in range(0, 2000, 37):
        for tokens in documents:
            if len(tokens) >= place + _BEGIN and len(found) < _TEXTS:
                found.append(tokens[place:place + _BEGIN])
    return torch.tensor(found)


def own_texts(model: Any, begins: torch.Tensor, guard: Any, said: Callable[[int, int], None]
              ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Greedy continuations int64 [B, n], and the streams that enter layers 1 to L - 1, [B, n - 1, hidden]."""
    import torch

    from workbench.runtime.cache import full_cache
    from workbench.runtime.states import keep_states

    forward = model.forward
    batch, width = begins.shape
    total = min(width + _TOKENS, forward.max_positions)
    cache = full_cache(forward.config, batch, total, forward.device, forward.dtype)
    dtype = torch.float32 if forward.device.type == "cpu" else forward.dtype
    states = keep_states(cache, forward.config, range(1, len(forward.layers)), forward.device, dtype)
    masks = forward.masks([0] * batch, total)
    ids = begins.to(forward.device)
    places = torch.arange(width, device=forward.device).expand(batch, width)
    logits = forward(ids, places, masks.rows(0, width), cache, 1)
    while True:
        guard.check()
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
        if ids.shape[1] % 16 == 0:
            said(ids.shape[1], total)
        if ids.shape[1] >= total:
            break
        at = torch.full((batch, 1), ids.shape[1] - 1, device=forward.device)
        logits = forward(ids[:, -1:].contiguous(), at, masks.rows(cache.length, 1), cache, 1)
    return ids, {tap: layer.keys[:, 0, :total - 1] for tap, layer in states.taps.items()}


def _guesses(draft: Any, ids: torch.Tensor, candidates: int, guard: Any) -> torch.Tensor:
    """The draft's likeliest tokens after every token but the last, [B, n - 1, K]."""
    import torch

    found = []
    n = ids.shape[1] - 1
    places = torch.arange(n, device=ids.device)[None]
    masks = draft.forward.masks([0], n)
    for row in ids:
        guard.check()
        logits = draft.forward(row[None, :n].contiguous(), places, masks.rows(0, n), draft.cache(n), n)
        found.append(logits[0].topk(candidates, -1).indices)
    return torch.stack(found)
