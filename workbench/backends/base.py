"""What a peer has to do, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from workbench.runtime.sources import Source
    from workbench.settings import Settings
    from workbench.shape import ModelShape

#: path -> (what runs, why it differs or "").
Facts = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Opening:
    """What a driver's ``start(opening)`` gets."""

    settings: Settings
    source: Source
    shape: ModelShape
    tokenizer: Any
    emit: Callable[[Any], None]
    cancelled: Callable[[], bool]


@dataclass(frozen=True)
class Request:
    """One sequence to continue.

    ``token(id) -> bool`` is called with every new token as soon as it is known and says whether to
    stop; ``check()`` raises Cancelled when the user asked for it (as often as the peer allows)."""

    settings: Settings
    ids: list[int]
    sequence: int
    max_new_tokens: int
    stops: set[int]
    token: Callable[[int], bool]
    check: Callable[[], None]
    monitor: Any = None


@dataclass
class Held:
    """Bytes that the peer says it holds; None where it does not say."""

    weights: int | None = None
    kv: int | None = None
    source: str = ""
    tier: str = "ram"
    total: int | None = None


class Peer(Protocol):
    """One model opened in another engine."""

    #: Name and version, as shown.
    title: str
    #: Where it computes, in words.
    device: str

    def generate(self, request: Request) -> None:
        """Continue one sequence; the prompt's work ends with the first call of ``token``."""

    def extend(self, ids: list[int], base: int) -> torch.Tensor | None:
        """Float32 logits [n, V] of ``ids`` at positions ``base``...; None: the peer gives none.

        ``base`` 0 forgets what was there; else it continues the last call."""

    def facts(self, settings: Settings) -> Facts:
        """What really runs, for every setting that this peer treats in its own way."""

    def held(self) -> Held:
        """Memory, from the peer's own accounting."""

    def close(self) -> None:
        """Give everything back."""


@dataclass
class Missing:
    """Settings that one peer has no counterpart for, as facts.

    ``families``: settings field -> (what runs instead, the technique that is honoured)."""

    title: str
    families: dict[str, tuple[str, str]] = field(default_factory=lambda: {
        "kv": ("its own cache", "full"), "tiers": ("all resident", "resident"),
        "decoding": ("plain", "plain")})

    def facts(self, settings: Settings) -> Facts:
        found: Facts = {}
        for family, (runs, honoured) in self.families.items():
            chosen = settings.techniques()[family]
            why = "" if chosen.name() == honoured else (
                f"{self.title} is not driven with {family}={chosen.name()}; choose backend=native")
            found[family] = (runs, why)
            for knob in chosen.controls():
                found[f"{family}.{knob.name}"] = ("not used", why)
        return found
