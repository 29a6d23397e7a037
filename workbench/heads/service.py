"""Training a head for a user's own model: load, let it write, learn, measure, save.

The text begins with calibration windows (the standard library and generated tasks, or a file of the user's)
and goes on with what the model itself makes of them. Nothing is left half done.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError, SettingsError
from workbench.heads.spec import METHODS, home, slug

if TYPE_CHECKING:
    from workbench.settings import Settings

#: (what is being done, done, in all)
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Order:
    """What to train. ``windows`` of ``prompt`` + ``new`` tokens; one tenth of them is held out."""

    method: str
    steps: int = 400
    windows: int = 1024
    prompt: int = 32
    new: int = 96
    batch: int = 12
    text: str = "bundled"
    seed: int = 0
    depth: int = 0


@dataclass(frozen=True)
class Trained:
    """``hits[d][r]``: share of held-out places where guess r of step d + 1 was right."""

    folder: Path
    parameters: int
    hits: list[list[float]]
    seconds: float


def train_head(settings: Settings, order: Order, *, out: Path | None = None,
               cancelled: Callable[[], bool] = lambda: False,
               tell: Tell = lambda what, done, of: None) -> Trained:
    """Train one head for the model that ``settings`` names and save it where drafting looks for it.

    Raises SettingsError, ModelError, OutOfMemory, StoreError or Cancelled; a head that was there before is
    replaced only when the new one is whole."""
    from workbench.runtime import load

    _check(settings, order)
    tell("loading the model", 0, 1)
    model = load(settings.with_({"decoding": "plain"}), lambda event: None, cancelled)
    try:
        return _train(model, settings, order, out, cancelled, tell)
    finally:
        model.close()


def _check(settings: Settings, order: Order) -> None:
    if order.method not in METHODS:
        raise SettingsError(f"no head method {order.method!r}; choose one of {', '.join(METHODS)}")
    if settings.weights.name() not in ("bf16", "fp32"):
        raise SettingsError("heads are trained on the model's own weights, not on weights="
                            f"{settings.weights.name()}; set weights=bf16. The head serves the others too")
    if settings.tiers.name() != "resident":
        raise SettingsError("heads are trained on a model that is resident; set tiers=resident")
    if order.windows < 2 * order.batch:
        raise SettingsError(f"{order.windows} windows are too few; take at least {2 * order.batch}")


def _train(model: Any, settings: Settings, order: Order, out: Path | None, cancelled: Callable[[], bool],
           tell: Tell) -> Trained:
    import torch

    from workbench.heads import files, measure, train
    from workbench.heads.target import Target

    began = time.monotonic()
    check = train.cancelling(cancelled)
    _refuse_architecture(model)
    name = slug(settings.model.source)
    target = Target(model.loaded.model)
    model.loaded.model.requires_grad_(False)
    spec = files.default_spec(order.method, target, name, order.depth)
    tokens = _text(model, order, check, tell)
    held = max(order.batch, len(tokens) // 10)
    taps = sorted({target.layers, *([spec.options["layer"]] if "layer" in spec.options else [])})
    states = train.features(model.forward, tokens, taps, check,
                            lambda done, of: tell("reading the model's states", done, of))
    learn, rest = states.part(slice(held, None)), states.part(slice(None, held))
    torch.manual_seed(order.seed)
    head = files.build(spec).to(target.device)
    plan = train.Plan(steps=order.steps, batch=order.batch, seed=order.seed)
    final = train.train(head, target, learn, plan, check=check, tell=lambda done, of, row: tell(
        f"training, loss {row.get('loss', '...')}", done, of))
    tell("measuring on held-out text", 0, 1)
    hits = measure.rank_hits(head, target, rest, check=check)
    seconds = time.monotonic() - began
    spec = files.measured(spec, hits=hits, provenance={
        "recipe": f"workbench heads train {settings.model.source} --method {order.method}",
        "plan": plan.to_dict(), "final": final, "weights": settings.weights.name(),
        "text": {"source": order.text, "windows": len(tokens) - held, "tokens": tokens.numel(),
                 "sha256": hashlib.sha256(tokens.numpy().tobytes()).hexdigest()},
        "seconds": round(seconds, 1)})
    folder = files.save(head, spec, out or home() / name / order.method)
    return Trained(folder, sum(p.numel() for p in head.parameters()), hits, seconds)


def _refuse_architecture(model: Any) -> None:
    decoder = model.loaded.model.get_decoder()
    if not hasattr(decoder, "norm") or not hasattr(decoder, "rotary_emb") or not model.forward.layers:
        raise ModelError("heads are trained for decoders like Llama (layers, a final norm, rotary "
                         f"positions), and this is {model.forward.config.model_type}; use "
                         "decoding=prompt_lookup or token_recycling, which need no training")


def _text(model: Any, order: Order, check: Callable[[], None], tell: Tell) -> Any:
    """int64 [windows, prompt + new]."""
    from workbench.calibration.text import MIN_TOKENS, draw
    from workbench.heads.text import continued

    most = model.forward.max_positions
    if order.prompt + order.new > most:
        raise SettingsError(f"windows of {order.prompt + order.new} tokens exceed the model's {most} "
                            "positions; give a smaller --new")
    many = max(order.windows, -(-MIN_TOKENS // order.prompt))
    drawn = draw(model.tokenizer, order.text, many, order.prompt, order.seed, model.shape.vocab)
    return continued(model.forward, drawn.ids[:order.windows], order.new, seed=order.seed, check=check,
                     tell=lambda done, of: tell("the model writes its training text", done, of))
