"""Methods that draft with a trained head: what they share, and trees grown by the heads' probabilities.

A head reads the target's hidden states of the tokens that are settled (``Drafter.states``), so nothing of it
has to be rolled back but what a draft itself wrote.
"""

from __future__ import annotations

import functools
import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from workbench.techniques.base import control
from workbench.techniques.decoding import Drafter, Proposal, Speculative

if TYPE_CHECKING:
    import torch

    from workbench.machine import Machine
    from workbench.settings import Settings
    from workbench.shape import ModelShape

#: Kinds of caches that can keep hidden states beside them (``runtime/states.py``).
_KINDS = ("full", "int8")
#: Guesses per step that a tree may take.
RANKS = 8


@dataclass(frozen=True, kw_only=True)
class HeadMethod(Speculative):
    """Base of the methods; ``nodes`` sizes the tree."""

    needs = ("head",)
    #: Whether the drafter reads hidden states, which are kept beside caches of these kinds only.
    reads_states: ClassVar[bool] = True
    head: str = control("auto", help="auto: the model's own; or a folder that `workbench heads train` wrote")
    nodes: int = control(8, 1, 64, soft=(2, 24), unit="tokens", help="tokens of the drafted tree")

    def rows(self) -> int:
        return 1 + self.nodes

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        from workbench.heads import spec

        return super().applies(shape, machine) or spec.none_for(self.head, self.name(), shape)

    def refuses(self, settings: Settings) -> str | None:
        from workbench.heads import spec

        if self.reads_states and settings.kv.name() not in _KINDS:
            return (f"{self.name()} reads hidden states, which kv={settings.kv.name()} does not keep; set "
                    "kv=full or kv=int8")
        return super().refuses(settings) or spec.why_not(self.head, self.name(), settings.model.source)


class HeadDrafter(Drafter):
    """``self.head`` and ``self.target`` are ready; ``draft`` makes a tree of at most ``nodes`` tokens."""

    def __init__(self, choice: HeadMethod, runtime: Any) -> None:
        from workbench.errors import SettingsError
        from workbench.heads.spec import advice, locate
        from workbench.heads.target import Target

        model = runtime.model
        folder = locate(choice.head, choice.name(), runtime.settings.model.source)
        self.spec, self.head = _loaded(str(folder), _version(folder), model.forward.device,
                                       model.forward.dtype)
        self.forward = model.forward
        self.target = Target(model.forward.model, narrow=self.spec.hidden != model.shape.hidden)
        if (self.target.hidden, self.target.layers, self.target.vocab) != (
                self.spec.hidden, self.spec.layers, self.spec.vocab):
            raise SettingsError(self.spec.mismatch(model.shape) or advice(choice.name()))
        self.last = self.target.tap(self.spec.layers)
        self.nodes, self.capacity = choice.nodes, runtime.capacity
        self.taps = (self.last,)

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """A tree at most ``budget`` deep."""
        started = time.perf_counter()
        nodes = min(self.nodes, self.most)
        depth = min(budget, self.spec.steps, self.capacity - len(tokens))
        found = self.draft(tokens, depth, nodes) if depth > 0 and nodes > 0 else Proposal()
        found.seconds = time.perf_counter() - started
        return found

    def draft(self, tokens: list[int], depth: int, nodes: int) -> Proposal:
        raise NotImplementedError

    def last_features(self, tokens: list[int], first: int) -> torch.Tensor:
        """[n, hidden] after the final norm, of the tokens from ``first`` to the last settled one."""
        return self.target.features(self.states.rows(self.last, first, len(tokens) - 1))

    def says(self) -> dict[str, str]:
        count = sum(p.numel() for p in self.head.parameters())
        dtype = str(self.target.dtype).removeprefix("torch.")
        return {"head": f"{self.spec.method} head of {self.spec.target}, {count:,} parameters in {dtype}, "
                        f"{self.spec.steps} tokens ahead"}

    def memory_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.head.parameters())


def _version(folder: Any) -> float:
    from workbench.heads.spec import WEIGHTS

    file = folder / WEIGHTS
    return float(file.stat().st_mtime) if file.is_file() else 0.0


@functools.lru_cache(maxsize=8)
def _loaded(folder: str, version: float, device: Any, dtype: Any) -> Any:
    from pathlib import Path

    from workbench.heads.files import load

    return load(Path(folder), device, dtype)


def top(logits: torch.Tensor, ranks: int = RANKS) -> list[tuple[list[int], list[float]]]:
    """[n, V] -> per row its likeliest tokens and their probabilities."""
    wide = logits.float()
    scores, best = wide.topk(ranks, -1)
    chances = (scores - wide.logsumexp(-1, keepdim=True)).exp()
    return list(zip(best.tolist(), chances.tolist(), strict=True))


def grow(levels: Sequence[tuple[list[int], list[float]]], nodes: int) -> tuple[Proposal, list[float]]:
    """The worthiest tree where each level's guesses do not depend on the path; and the nodes' worths.

    A node's worth is the product of the chances along its path; taking the worthiest next is optimal."""
    found, worths = Proposal(), list[float]()
    depths: list[int] = []
    if not levels:
        return found, worths
    # (-worth, order, parent, depth, rank, worth of the parent)
    heap = [(-levels[0][1][0], 0, -1, 0, 0, 1.0)]
    order = 1
    while heap and len(found.tokens) < nodes:
        worth, _, parent, depth, rank, above = heapq.heappop(heap)
        tokens, chances = levels[depth]
        me = len(found.tokens)
        found.tokens.append(tokens[rank])
        found.parents.append(parent)
        found.probs.append(None)
        depths.append(depth)
        worths.append(-worth)
        if rank + 1 < len(tokens):
            heapq.heappush(heap, (-above * chances[rank + 1], order, parent, depth, rank + 1, above))
        if depth + 1 < len(levels):
            heapq.heappush(heap, (worth * levels[depth + 1][1][0], order + 1, me, depth + 1, 0, -worth))
        order += 2
    return found, worths


#: (indices of nodes of one level) -> likeliest children of each: see :func:`top`.
Expand = Callable[[list[int]], list[tuple[list[int], list[float]]]]


class Grown:
    """A tree whose guesses depend on the path, grown level by level; the worthiest nodes are drafted.

    As EAGLE-2 does it (Li et al. 2024, arXiv:2406.16858, section 4): per level the ``width`` worthiest nodes
    are expanded, and of all that were seen the worthiest ones stay."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.worths: list[float] = []

    def grow(self, roots: tuple[list[int], list[float]], expand: Expand, depth: int, width: int,
             nodes: int) -> Proposal:
        level = self._add(-1, 1.0, roots)
        for _ in range(depth - 1):
            level = sorted(level, key=lambda n: -self.worths[n])[:width]
            # A node less worthy than all that will stay cannot have children that stay.
            least = sorted(self.worths, reverse=True)[nodes - 1] if len(self.worths) >= nodes else 0.0
            level = [n for n in level if self.worths[n] >= least]
            if not level:
                break
            level = [child for node, guesses in zip(level, expand(level), strict=True)
                     for child in self._add(node, self.worths[node], guesses)]
        return self._best(nodes)

    def path(self, node: int) -> list[int]:
        """The node and what is above it, from the top."""
        found = []
        while node >= 0:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def _add(self, parent: int, worth: float, guesses: tuple[list[int], list[float]]) -> list[int]:
        first = len(self.tokens)
        for token, chance in zip(*guesses, strict=True):
            self.tokens.append(token)
            self.parents.append(parent)
            self.worths.append(worth * chance)
        return list(range(first, len(self.tokens)))

    def _best(self, nodes: int) -> Proposal:
        """Parents are at least as worthy as their children and come before them."""
        chosen = sorted(sorted(range(len(self.tokens)), key=lambda n: (-self.worths[n], n))[:nodes])
        place = {-1: -1, **{node: i for i, node in enumerate(chosen)}}
        return Proposal([self.tokens[n] for n in chosen], [place[self.parents[n]] for n in chosen],
                        [None] * len(chosen))
