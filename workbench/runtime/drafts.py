"""Which draft model goes with a target, and why one cannot: read from configs, before any load."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from workbench.settings import Settings
    from workbench.shape import ModelShape


def locate(draft: str, target: str) -> Path | str:
    """The draft's folder or config file, or a hub id. ``target`` is ``settings.model.source``.

    Raises SettingsError with one sentence when there is none."""
    from workbench import zoo

    if draft == "auto":
        name = zoo.draft_for(zoo.DEFAULT if target == "bundled" else target)
        if name is None:
            raise SettingsError(
                f"draft=auto is known for the bundled model only, not for {target!r}; name a smaller "
                "model with the same tokenizer, draft=<folder or hub id>, or use "
                "decoding=prompt_lookup, which needs none")
        return Path(zoo.path(name))
    if draft == "self":  # the target's own layers, a copy of them
        draft = zoo.DEFAULT if target == "bundled" else target
    if draft in zoo.names():
        return Path(zoo.path(draft))
    path = Path(draft).expanduser()
    if path.exists():
        return path
    parts = draft.split("/")
    if len(parts) == 2 and all(parts) and not draft.startswith((".", "/", "~")):
        return draft
    raise SettingsError(f"there is no draft model {draft!r}; give a folder, a config.json, a hub id "
                        "like org/name, or auto")


def mismatch(draft: ModelShape, target: ModelShape) -> str | None:
    """Why this draft cannot serve this target, or None."""
    if draft.vocab != target.vocab:
        return (f"the draft's vocabulary has {draft.vocab} tokens and the target's {target.vocab}; "
                "a draft must share the target's tokenizer")
    if draft.parameters > target.parameters:
        return (f"the draft ({draft.parameters / 1e6:.1f} M parameters) is bigger than the target "
                f"({target.parameters / 1e6:.1f} M); choose a smaller one")
    return None


def why_not(draft: str, target: ModelShape) -> str | None:
    """The sentence for a draft that cannot serve a target of this shape; None also for a hub id,
    whose config is not here yet. ``auto`` is the bundled draft."""
    from workbench.shape import from_file

    if draft == "self":
        return None
    try:
        path = locate(draft, "bundled")
        found = mismatch(from_file(path), target) if isinstance(path, Path) else None
    except (ModelError, SettingsError) as error:
        return str(error)
    if found and draft == "auto":
        return f"draft=auto is the bundled draft, and {found}"
    return found and f"draft={draft}: {found}"


def check(settings: Settings, target: ModelShape) -> None:
    """Raises SettingsError when the decoding's draft is missing or does not fit, or when the run cannot
    fit the target's positions; loads nothing."""
    check_positions(settings, target)
    draft = getattr(settings.decoding, "draft", None)
    if draft is None:
        return
    path = locate(draft, settings.model.source)
    why = why_not(draft, target) or (other_tokens(path, settings.model.source)
                                     if isinstance(path, Path) else None)
    if why:
        raise SettingsError(why)


def check_positions(settings: Settings, target: ModelShape) -> None:
    """Raises SettingsError when drafts would run past the target's positions whatever the prompt is."""
    wanted, limit = settings.limits.max_new_tokens, target.max_positions
    ahead = settings.decoding.rows() - 1
    if wanted < limit or not ahead or target.canvas:
        return  # plain decoding says so itself, when it knows the prompt
    raise SettingsError(f"limits.max_new_tokens={wanted}, drafted up to {ahead} ahead, leaves no room for a "
                        f"prompt in the model's {limit} positions; set limits.max_new_tokens below {limit}")


def other_tokens(draft: Path, target: str) -> str | None:
    """Why two vocabularies of one size are not the same, or None (also where a side has none on disk)."""
    from workbench import zoo

    name = zoo.DEFAULT if target == "bundled" else target
    home = Path(zoo.path(name)) if name in zoo.names() else Path(name).expanduser()
    theirs, ours = _tokens(home), _tokens(draft)
    if theirs is None or ours is None or theirs == ours:
        return None
    differ = sorted((i, t) for t, i in ours.items() if theirs.get(t) != i)
    if not differ:
        return None
    number, text = differ[0]
    return (f"the draft's tokenizer is another one: its token {number} is {text!r} and {len(differ)} of its "
            "tokens are not the target's; a draft must share the target's tokenizer")


def _tokens(folder: Path) -> dict[str, int] | None:
    """Token -> id from ``tokenizer.json``; None where there is none that tells."""
    file = folder / "tokenizer.json" if folder.is_dir() else folder.parent / "tokenizer.json"
    if not file.is_file():
        return None
    return _read_tokens(str(file), file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_tokens(file: str, version: int) -> dict[str, int] | None:
    import json

    try:
        model = json.loads(Path(file).read_text("utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the tokenizer's own reader says what is wrong with it
    return model if isinstance(model, dict) else None


def settings_for(settings: Settings, path: Path | str) -> Settings:
    """How the draft is loaded: untouched weights, resident, on the target's device."""
    weights = "random" if isinstance(path, Path) and path.is_file() else "checkpoint"
    precision = "fp32" if settings.weights.name() == "fp32" else "bf16"
    return settings.with_({
        "decoding": "plain", "kv": "full", "tiers": "resident", "weights": precision,
        "model": {**settings.model.to_dict(), "source": str(path), "weights": weights}})
