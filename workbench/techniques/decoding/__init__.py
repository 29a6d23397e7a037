"""Decoding: who proposes the next tokens. The target verifies every proposal in one forward.

A proposal is a token tree; a chain is a thin tree, plain decoding an empty one. Before each step the
cache holds all tokens but the last; the last token is the tree's root. Row ``i`` sees the cache, its
ancestors and itself, at position ``base + depth(i)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Technique

if TYPE_CHECKING:
    import torch

    from workbench.machine import Machine
    from workbench.shape import ModelShape


@dataclass
class Proposal:
    """A token tree without its root, in topological order.

    ``tokens`` [n]; ``parents`` [n]: index into ``tokens`` or -1 for the root (``parents[i] < i``);
    ``probs`` [n]: distribution [V] each token was drawn from, or None for a deterministic choice."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    probs: list[torch.Tensor | None] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def chain(cls, tokens: list[int], probs: list[torch.Tensor | None] | None = None,
              seconds: float = 0.0) -> Proposal:
        """Each token follows the one before it."""
        n = len(tokens)
        return cls(tokens, list(range(-1, n - 1)), probs or [None] * n, seconds)


class Drafter:
    """The mutable half of a method: what ``start`` returns."""

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """At most ``budget`` tokens that may follow ``tokens`` (prompt and output so far)."""
        raise NotImplementedError

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """After a verification: all tokens now, how many drafted ones were kept, logits of the
        verified rows [rows, V]. Roll own caches back here."""

    def memory_bytes(self) -> int:
        """Bytes this drafter holds (weights and cache)."""
        return 0


@dataclass(frozen=True)
class Decoding(Technique):
    """Protocol of the family."""

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        if shape.canvas and self.name() != "plain":
            return (f"{self.name()} drafts what follows and this is a masked-diffusion model; choose "
                    "plain (one place per forward) or one of the diffusion_ methods")
        return super().applies(shape, machine)

    #: Rows of one verification forward at most (1 for plain decoding).
    def rows(self) -> int:
        return 1

    def start(self, runtime: Any) -> Drafter | None:
        """The drafter, or None for plain decoding."""
        raise NotImplementedError
