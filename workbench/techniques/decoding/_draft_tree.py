"""A draft model's forwards over a growing tree: one per level, over the whole tree so far.

The nodes of earlier levels are computed again with each level: a small draft takes as long for eight rows
as for one, and the rows need no other bookkeeping than the target's own trees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.techniques.decoding import Proposal

if TYPE_CHECKING:
    import torch

    from workbench.techniques.decoding._trees import Template

_CHUNK = 512  # rows of one forward while the draft reads the prompt


class TreeDraft:
    """``guesses[n]``: the likeliest tokens below node n (-1: the root), where the draft was asked."""

    def __init__(self, forward: Any, cache: Callable[[int], Any], weights_bytes: int, runtime: Any) -> None:
        self._forward, self._weights_bytes = forward, weights_bytes
        self._sampler, self._guard = runtime.sampler, runtime.guard
        self._positions = min(runtime.capacity, forward.max_positions)
        self._cache = cache(self._positions)
        self._masks = forward.masks([0], self._positions)
        self._cached: list[int] = []
        self.guesses: dict[int, list[int]] = {}

    def memory_bytes(self) -> int:
        return self._weights_bytes + int(self._cache.nbytes)

    def expand(self, tokens: list[int], template: Template, ranks: int, budget: int
               ) -> tuple[Proposal, int]:
        """The template's tokens, at most ``budget`` deep -> (tree, forwards of the draft)."""
        room = self._positions - len(tokens)
        deep = _depths(template)
        deepest = min(max(deep, default=0), budget, room)
        self.guesses = {}
        if deepest < 1:
            return Proposal(), 0
        rows = self.read(tokens)
        self._guess([-1], rows, [len(tokens)], ranks)
        node = {-1: -1}  # of the template -> of the tree
        found = Proposal()
        for level in range(1, deepest + 1):
            if level > 1:
                parents = sorted({node[p] for (p, _), d in zip(template, deep, strict=True)
                                  if d == level and p in node})
                self._run(tokens, found, parents, level, ranks)
            for place, ((parent, rank), depth) in enumerate(zip(template, deep, strict=True)):
                guesses = self.guesses.get(node.get(parent, -2), [])
                if depth == level and rank < len(guesses):
                    node[place] = len(found.tokens)
                    found.tokens.append(guesses[rank])
                    found.parents.append(node[parent])
        found.probs = [None] * len(found.tokens)
        self._cache.rewind(len(tokens))
        return found, deepest

    def read(self, tokens: list[int]) -> torch.Tensor:
        """Append what the target settled since; logits [1, V] after the last token."""
        import torch

        same = 0
        limit = min(len(self._cached), len(tokens) - 1)
        if self._cached[:limit] == tokens[:limit]:  # the usual case: nothing was taken back
            same = limit
        else:
            while same < limit and self._cached[same] == tokens[same]:
                same += 1
        self._cache.rewind(same)
        self._cache.show_blocks(1)
        logits = None
        for start in range(same, len(tokens), _CHUNK):
            self._guard.check()
            part = tokens[start:start + _CHUNK]
            places = torch.arange(start, start + len(part))
            ids, at = torch.stack([torch.tensor(part), places])[:, None].to(self._forward.device)
            logits = self._forward(ids, at, self._masks.rows(start, len(part)), self._cache, 1)
        assert logits is not None
        self._cached = list(tokens)
        return logits[0]

    def _run(self, tokens: list[int], tree: Proposal, parents: list[int], level: int, ranks: int) -> None:
        """Guesses below ``parents``, nodes of depth ``level`` - 1, by one forward over all inner nodes."""
        import torch

        inner = sorted(n for n in {*self.guesses, *parents} if n >= 0)
        row = {n: i for i, n in enumerate(inner)}
        above = [row.get(tree.parents[n], -1) for n in inner]
        deep: list[int] = []
        for parent in above:
            deep.append(1 if parent < 0 else deep[parent] + 1)
        base = len(tokens) - 1
        self._cache.rewind(base)
        self._cache.show_blocks(self._masks.block)
        ids = torch.tensor([[tokens[-1], *(tree.tokens[n] for n in inner)],
                            [base, *(base + d for d in deep)]]).to(self._forward.device)
        mask = self._masks.tree(base, above, deep)
        logits = self._forward(ids[:1], ids[1:], mask, self._cache, 1 + len(inner))[0]
        self._guess(parents, logits[[1 + row[n] for n in parents]],
                    [len(tokens) + level - 1] * len(parents), ranks)

    def _guess(self, nodes: list[int], logits: torch.Tensor, places: list[int], ranks: int) -> None:
        best = self._sampler.scores(logits, places).topk(ranks, -1).indices.tolist()
        self.guesses.update(zip(nodes, best, strict=True))


def _depths(template: Template) -> list[int]:
    from workbench.runtime.verify import depths

    return depths([parent for parent, _ in template])
