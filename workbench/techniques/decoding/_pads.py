"""LUD's [PAD] embeddings: found in the bundled files or the cache, or trained on the model's own texts.

Everything else of the model is frozen. A lexical unit is a run of tokens to each of which the model gave at
least ``ALPHA``; the loss is the cross entropy of a unit's later tokens at [PAD] rows behind its first.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PADS, ALPHA = 3, 0.9
_STEPS, _BATCH, _RATE, _SHARE = 120, 8, 1e-2, 0.25
_FILE = "pads.safetensors"


def pads_for(runtime: Any) -> torch.Tensor:
    """[3, hidden] in the model's dtype. Raises SettingsError where they would have to be trained and cannot,
    and Cancelled."""
    from safetensors.torch import load_file

    settings = runtime.settings
    for path in (kept_in(settings), bundled(settings.model.source)):
        if path is not None and path.is_file():
            found = load_file(path)["pads"]
            if found.shape[1] == runtime.model.shape.hidden:
                return found.to(runtime.model.device, runtime.model.dtype)
    return trained(runtime).to(runtime.model.device, runtime.model.dtype)


def bundled(source: str) -> Path | None:
    """Where the embeddings of a bundled model lie."""
    from workbench import zoo

    name = zoo.DEFAULT if source == "bundled" else source
    return zoo.heads() / name / "lud" / _FILE if name in zoo.names() else None


def kept_in(settings: Any) -> Path:
    """Where those of another model are kept: for all formats of its weights."""
    from workbench.machine import home

    random = settings.model.weights == "random"
    about = {"model": settings.model.to_dict(), "seed": settings.seed if random else 0}
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Path(home()) / "cache" / "lud" / key / _FILE


def trained(runtime: Any) -> torch.Tensor:
    """Train now, with progress, and keep the result."""
    import torch

    from workbench.errors import SettingsError
    from workbench.events import Note, Progress
    from workbench.techniques.decoding._specee_train import beginnings, own_texts

    model, settings = runtime.model, runtime.settings
    if settings.weights.name() not in ("bf16", "fp32") or settings.tiers.name() != "resident":
        raise SettingsError("LUD's embeddings for this model are not trained yet, which needs its own "
                            "weights: run it once with weights=bf16 and tiers=resident, and all formats have "
                            "them")

    def said(what: str, done: int, total: int) -> None:
        runtime.emit(Progress(what=what, done=done, total=total))

    runtime.emit(Note(text="training LUD's embeddings on this model's own texts; they are kept for the next "
                           "run"))
    ids, _ = own_texts(model, beginnings(model), runtime.guard,
                       lambda done, total: said("writing texts to learn from", done, total))
    with torch.inference_mode(False), torch.enable_grad():
        pads = learn(model, ids.clone(), runtime.guard.check,
                     lambda done, total: said("training LUD's embeddings", done, total))
    save(pads, kept_in(settings))
    return pads


def save(pads: torch.Tensor, path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({"pads": pads.contiguous()}, part)
    part.replace(path)


def learn(model: Any, ids: torch.Tensor, check: Any, said: Any, steps: int = _STEPS,
          log: Any = None) -> torch.Tensor:
    """``ids`` int64 [N, T] -> float32 [3, hidden]. ``log(step, loss, hits)``: every ten steps."""
    import torch
    import torch.nn.functional as F

    from workbench.heads import probes
    from workbench.heads.target import Target

    target = Target(model.loaded.model)
    sure = confidence(model, ids)  # [N, T]: of each token, given those before it
    dice = torch.Generator().manual_seed(0)
    start = target.embedding.weight.float().mean(0)
    pads = (start + torch.randn(PADS, target.hidden, generator=dice).to(start) * 0.02).requires_grad_(True)
    adam = torch.optim.AdamW([pads], lr=_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        check()
        rows = torch.randint(len(ids), (_BATCH,), generator=dice)
        text, certain = ids[rows], sure[rows] >= ALPHA
        places = probes.choose(text.shape[1], PADS, _SHARE, dice)
        after = places[:, None] + 2 + torch.arange(PADS)  # what each [PAD] row names
        # A [PAD] row counts while its token and all between are sure: they are one unit.
        unit = certain[:, places + 1][..., None] & certain[:, after].cumprod(-1).bool()
        if not bool(unit.any()):
            continue
        shown = pads.to(target.dtype).expand(_BATCH, len(places), PADS, -1)
        features = probes.run(target, 0, target.embed(text), shown, places, PADS)
        logits = target.logits(features[unit]).float()
        answers = text[:, after][unit]
        loss = F.cross_entropy(logits, answers)
        adam.zero_grad()
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = _RATE * (1.0 - 0.95 * step / steps)
        adam.step()
        said(step + 1, steps)
        if log is not None and (step + 1) % 10 == 0:
            log(step + 1, float(loss.detach()), float((logits.argmax(-1) == answers).float().mean()))
    return pads.detach().float()


def confidence(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The probability that the model gave to every token of ``ids`` [N, T] (1 for the first of each)."""
    import torch

    found = torch.ones(ids.shape)
    with torch.no_grad():
        for row, text in zip(found, ids, strict=True):
            logits = model.loaded.model(text[None], use_cache=False).logits[0, :-1].float()
            row[1:] = logits.softmax(-1).gather(-1, text[1:, None])[:, 0].cpu()
    return found
