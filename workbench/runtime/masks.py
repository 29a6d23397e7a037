"""Attention masks: additive, [B or 1, 1, n, S], zero where a row may look and -inf where not.

Rows are the n tokens of this forward, columns the ``base`` cached tokens and then the rows.
``None`` means that nothing is hidden (one row) or plain causal order from position 0 (n = S rows).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workbench.runtime.attention import fold_mask


def ancestors(parents: Sequence[int]) -> torch.Tensor:
    """bool [1 + n, 1 + n]: row i sees its ancestors and itself; row 0 is the root.

    Built by m[i] = m[parent] | e_i."""
    size = len(parents) + 1
    table = torch.zeros(size, size, dtype=torch.bool)
    table[:, 0] = True
    for node, parent in enumerate(parents):
        table[node + 1] |= table[parent + 1]
        table[node + 1, node + 1] = True
    return table


class Masks:
    """Makes the masks of one generation. ``pads`` [B]: hidden columns at the left of each sequence.

    ``window``: sliding attention, a row sees only the last ``window`` positions; 0 sees all.
    ``block``: the steps' masks are as wide as whole blocks, as the cache shows its columns."""

    def __init__(self, pads: Sequence[int], capacity: int, *, device: torch.device,
                 dtype: torch.dtype, groups: int = 1, window: int = 0, block: int = 1) -> None:
        self.device, self.dtype, self.groups, self.window = device, dtype, groups, window
        self.padded = any(pads)
        self.capacity, self.block = capacity, block
        self._trees: dict[tuple[int, ...], torch.Tensor] = {}
        self._hidden: torch.Tensor | None = None
        self._pads = list(pads)
        # A window into this is "the first k columns are visible", without making anything.
        self._edge = torch.zeros(2 * capacity, dtype=dtype)
        self._edge[capacity:] = float("-inf")
        self._edge = self._edge.to(device)
        if self.padded:
            columns = torch.arange(capacity)
            hidden = columns[None] < torch.tensor(self._pads)[:, None]
            self._hidden = hidden[:, None, None, :]

    def rows(self, base: int, n: int) -> torch.Tensor | None:
        """n further tokens in plain order after ``base``."""
        if not self.padded and not self._windowed(base + n) and (n == 1 or base == 0):
            return None
        order = torch.ones(n, n, dtype=torch.bool).tril()
        return self._additive(self._with_past(order, base), base, torch.arange(n))

    def tree(self, base: int, parents: Sequence[int], depths: Sequence[int]) -> torch.Tensor | None:
        """The root and its drafted nodes after ``base``."""
        n = 1 + len(parents)
        if self.padded or self._windowed(base + n) or (self.block == 1 and parents):
            mask = self._additive(self._with_past(ancestors(parents), base), base, torch.tensor([0, *depths]))
            hidden = self._shown(base + n) - base - n
            return torch.nn.functional.pad(mask, (0, hidden), value=float("-inf"))
        if self.block == 1:
            return None
        if not parents:
            return self._first(base + 1, base + 1)[None, None, None]
        mask = self._first(base, base + n).repeat(n, 1)
        mask[:, base:base + n] = self._inside(parents)
        return fold_mask(mask[None, None], self.groups)

    def ragged(self, slots: Sequence[int], bases: Sequence[int], trees: Sequence[Sequence[int]]
               ) -> torch.Tensor:
        """[b, 1, n, S] for sequences of different lengths; n is the most rows that one of them has.

        Rows that a sequence does not have see their own column only."""
        n = 1 + max(map(len, trees))
        size = self._shown(max(bases) + n)
        allowed = torch.zeros(len(bases), n, size, dtype=torch.bool)
        for row, (slot, base, tree) in enumerate(zip(slots, bases, trees, strict=True)):
            count = 1 + len(tree)
            mine = allowed[row]
            mine[:count, self._pads[slot]:base] = True
            mine[:count, base:base + count] = ancestors(tree)
            if self._windowed(base + count):
                self._narrow(mine[:count], base, tree)
            extra = torch.arange(count, n)
            mine[extra, base + extra] = True
        mask = torch.zeros(allowed.shape, dtype=self.dtype).masked_fill_(~allowed, float("-inf"))
        return fold_mask(mask[:, None].to(self.device), self.groups)

    def _narrow(self, allowed: torch.Tensor, base: int, tree: Sequence[int]) -> None:
        """Hide what lies before a row's window; a node's place is its depth, not its column."""
        deep = [0]
        for parent in tree:
            deep.append(deep[parent + 1] + 1)
        depth = torch.tensor(deep)
        where = torch.arange(allowed.shape[1])
        where[base:base + len(deep)] = base + depth
        allowed &= (base + depth)[:, None] - where[None] < self.window

    def _inside(self, parents: Sequence[int]) -> torch.Tensor:
        """Additive [n, n] of the tree itself, kept for the next step with this shape."""
        key = tuple(parents)
        found = self._trees.get(key)
        if found is None:
            if len(self._trees) > 256:
                self._trees.clear()
            order = ancestors(parents)
            found = torch.zeros(order.shape, dtype=self.dtype).masked_fill_(~order, float("-inf"))
            found = self._trees[key] = found.to(self.device)
        return found

    def _shown(self, size: int) -> int:
        """Columns that the cache shows for ``size`` tokens."""
        return min(self.capacity, -(-size // self.block) * self.block)

    def _first(self, visible: int, size: int) -> torch.Tensor:
        """[S] for ``size`` tokens with the first ``visible`` columns open; a view."""
        start = self.capacity - visible
        return self._edge[start:start + self._shown(size)]

    def pads_of(self, sequences: Sequence[int]) -> list[int]:
        """Hidden columns at the left of each of these."""
        return [self._pads[s] for s in sequences]

    def repad(self, pads: Sequence[int]) -> None:
        """The sequences were moved: from now on these columns are hidden."""
        self._pads = list(pads)
        self.padded = any(pads)
        hidden = torch.arange(self.capacity)[None] < torch.tensor(self._pads)[:, None]
        self._hidden = hidden[:, None, None, :] if self.padded else None

    def take(self, sequences: Sequence[int]) -> None:
        """Keep only these sequences."""
        self._pads = [self._pads[s] for s in sequences]
        if self._hidden is not None:
            self._hidden = self._hidden[list(sequences)]

    def _windowed(self, size: int) -> bool:
        return bool(self.window) and size > self.window

    @staticmethod
    def _with_past(order: torch.Tensor, base: int) -> torch.Tensor:
        """[n, n] -> [1, 1, n, base + n]: everything cached is before every row."""
        past = torch.ones(order.shape[0], base, dtype=torch.bool)
        return torch.cat([past, order], 1)[None, None]

    def _additive(self, allowed: torch.Tensor, base: int, depth: torch.Tensor) -> torch.Tensor:
        n, size = allowed.shape[2:]
        if self._windowed(size):
            where = torch.cat([torch.arange(base), base + depth])
            near = (base + depth)[:, None] - where[None] < self.window
            allowed = allowed & near[None, None]
        if self._hidden is not None:
            own = torch.zeros(n, size, dtype=torch.bool)
            own[:, base:] = torch.eye(n, dtype=torch.bool)
            # A pad's own row must see something, or its softmax is 0/0 and poisons the cache.
            allowed = allowed & ~self._hidden[..., :size] | own
        mask = torch.zeros(allowed.shape, dtype=self.dtype).masked_fill_(~allowed, float("-inf"))
        return fold_mask(mask.to(self.device), self.groups)
