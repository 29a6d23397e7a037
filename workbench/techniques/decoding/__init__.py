"""Decoding: who proposes the next tokens. The target verifies every proposal in one forward.

A proposal is a token tree; a chain is a thin tree, plain decoding an empty one. Before each step the
cache holds all tokens but the last; the last token is the tree's root. Row ``i`` sees the cache, its
ancestors and itself, at position ``base + depth(i)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Control, Technique, control

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from workbench.machine import Machine
    from workbench.shape import ModelShape


@dataclass
class Proposal:
    """A token tree without its root, in topological order.

    ``tokens`` [n]; ``parents`` [n]: index into ``tokens`` or -1 for the root (``parents[i] < i``);
    ``probs`` [n]: distribution [V] each token was drawn from, or None for a deterministic choice;
    ``prompts``: how many tokens at the end are no guesses but prompt tokens (ids beyond the vocabulary)."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    probs: list[torch.Tensor | None] = field(default_factory=list)
    seconds: float = 0.0
    prompts: int = 0

    @property
    def guesses(self) -> list[int]:
        """The tokens that may be accepted."""
        return self.tokens[:len(self.tokens) - self.prompts]

    @classmethod
    def chain(cls, tokens: list[int], probs: list[torch.Tensor | None] | None = None,
              seconds: float = 0.0) -> Proposal:
        """Each token follows the one before it."""
        n = len(tokens)
        return cls(tokens, list(range(-1, n - 1)), probs or [None] * n, seconds)

    def first(self, most: int) -> Proposal:
        """The tree of the first ``most`` tokens; parents come before their children."""
        if len(self.tokens) <= most:
            return self
        prompts = max(0, self.prompts - (len(self.tokens) - most))
        return Proposal(self.tokens[:most], self.parents[:most], self.probs[:most], self.seconds, prompts)


class Drafter:
    """The mutable half of a method: what ``start`` returns.

    ``most``: tokens of the next proposal at most; set before ``propose`` where the length adapts. Whoever
    does not heed it has its proposal cut behind its ``most`` first tokens."""

    most: int = 1 << 30
    #: Hidden states of the target that this drafter reads: layer numbers, see ``runtime/states.py``.
    taps: tuple[int, ...] = ()
    #: They, once the loop has begun (``runtime.states.View``).
    states: Any = None

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """At most ``budget`` tokens that may follow ``tokens`` (prompt and output so far)."""
        raise NotImplementedError

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """After a verification: all tokens now, how many drafted ones were kept, logits of the
        verified rows [rows, V]. Roll own caches back here."""

    def memory_bytes(self) -> int:
        """Bytes this drafter holds (weights and cache)."""
        return 0

    def says(self) -> dict[str, str]:
        """Control name -> what really ran, for the controls whose value is not the whole story."""
        return {}

    def ended(self) -> None:
        """Its sequence has ended."""


class Drafters:
    """The drafters of a batch: one per sequence, each with its own state, so that what is drafted for
    a sequence does not depend on its neighbours. A method that can draft for all at once (one forward
    of a draft model over the whole batch) overrides this."""

    def __init__(self, each: Sequence[Drafter]) -> None:
        self.each = list(each)

    def propose(self, which: Sequence[int], tokens: Sequence[list[int]], budgets: Sequence[int],
                limits: Sequence[int]) -> list[Proposal]:
        """One proposal for each of the sequences ``which``: at most ``budgets`` deep (0: an empty one) and
        of at most ``limits`` tokens."""
        found = []
        for w, text, budget, limit in zip(which, tokens, budgets, limits, strict=True):
            drafter = self.each[w]
            drafter.most = limit
            proposal = drafter.propose(text, budget) if budget > 0 else Proposal()
            found.append(proposal.first(limit))
        return found

    def observe(self, which: int, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """As :meth:`Drafter.observe`, for sequence ``which``."""
        self.each[which].observe(tokens, accepted, logits)

    def drop(self, which: int) -> None:
        """Sequence ``which`` has ended."""
        if self.each:
            self.each[which].ended()

    def says(self) -> dict[str, str]:
        """As :meth:`Drafter.says`, of the first sequence."""
        return self.each[0].says() if self.each else {}

    def memory_bytes(self) -> int:
        """Bytes that all of them hold."""
        return sum(drafter.memory_bytes() for drafter in self.each)


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

    def loop(self, runtime: Any, sequences: int) -> Callable[..., Any] | None:
        """For a method that changes how a token is computed: what makes its loop, with the arguments of
        ``runtime.loop.Loop``. None: the shared loops."""
        return None

    def start_batch(self, runtime: Any, sequences: int) -> Drafters | None:
        """The drafters of ``sequences`` sequences, or None for plain decoding.

        Each is started with a runtime whose sampler draws the noise of its own sequence."""
        found = [self.start(runtime.of(i)) for i in range(sequences)]
        return Drafters([d for d in found if d is not None]) if found[0] is not None else None


@dataclass(frozen=True, kw_only=True)
class Speculative(Decoding):
    """A method whose proposals the target verifies; what all of them can be told."""

    length: str = control("fixed", choices=("fixed", "auto"),
                          help="auto: each sequence drafts as far as its acceptance and the measured "
                               "cost of a row make worth it, up to the method's own limit")
    fallback: bool = control(True, help="decode plainly while measured speculation does not pay, and "
                                        "look again now and then")
    schedule: str = control("ragged", choices=("ragged", "equal", "grouped"),
                            help="a batch whose sequences accept different numbers; ragged: each has its "
                                 "own length in the cache; equal: realign the cache after every step "
                                 "(EQSPEC); grouped: step sequences of one length together (EXSPEC)")

    @classmethod
    def controls(cls) -> list[Control]:
        """The method's own first."""
        shared = {"length", "fallback", "schedule"}
        return sorted(super().controls(), key=lambda c: c.name in shared)

    def drafts_change_text(self) -> bool:
        """Whether the text depends on what was drafted: by a seed under rules that weigh drafts by their
        probabilities (the distribution does not), always where a method is not lossless."""
        return not self.lossless
