"""Parallel prompt decoding: trained prompt tokens let the target itself guess ahead, in the same forward.

Chen et al. 2024, arXiv:2405.18628, sections 3 and 4. Behind a node of the tree stand up to m prompt tokens,
whose rows guess the tokens at distance 2 to m + 1; when the walk ends at that node, they are the next step's
tree. Lossless: prompt rows are never accepted and never stay in the cache.

The tree is dynamic and sparse (section 4): rows are shared out between guesses and prompts so that the
expected tokens of this step and the next are most: a prompt behind a node is worth the chance that the walk
ends there times what one more prompt adds to the next step.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Proposal
from workbench.techniques.decoding._heads import HeadDrafter, HeadMethod, grow, top

if TYPE_CHECKING:
    import torch

Level = tuple[list[int], list[float]]
#: Shares of the rows that may go to guesses; the best one is taken at every step.
_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Ppd(HeadMethod):
    """Prompt tokens behind the tree's nodes make the target guess the next tree in the same forward."""

    title = "parallel prompt decoding"
    paper = Paper("2405.18628", "Chen et al. 2024", "3 and 4")
    claim = Claim("up to 2.49x; with a draft model another 1.22x",
                  setup="MobileLLaMA to Vicuna 13B, A100, batch 1",
                  memory="one embedding per prompt token, 0.0002 % of the model")
    reads_states = False
    nodes: int = control(12, 2, 64, soft=(4, 32), unit="rows",
                         help="rows of a verification besides the root: guesses and prompt tokens")

    def start(self, runtime: Any) -> Drafter:
        return PromptDrafter(self, runtime)


class PromptDrafter(HeadDrafter):
    """``levels``: the guesses that the last accepted node's prompts made, for the text of ``length``."""

    def __init__(self, choice: Ppd, runtime: Any) -> None:
        super().__init__(choice, runtime)
        self.taps = ()
        self.vocab = self.target.vocab
        prompts = self.forward.prompts = self.target.widened(self.head.prompts.detach()).clone()
        # Plain decoding pays nothing once the last drafter is gone.
        weakref.finalize(self, _forget, self.forward, prompts)
        self.values = worth_of_prompts(self.spec.hits, self.spec.steps, choice.nodes // 2)
        self.levels: list[Level] = []
        self.length = -1
        self.sent = Proposal()

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """Guesses first, then the prompts of the root and of the guesses."""
        started = time.perf_counter()
        nodes = min(self.nodes, self.most, self.capacity - len(tokens))
        levels = self.levels[:budget] if self.length == len(tokens) else []
        self.sent = plan(levels, max(0, nodes), self.values, self.vocab)
        self.sent.seconds = time.perf_counter() - started
        return self.sent

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """The rows of the prompts behind the node where the walk ended are the next guesses."""
        self.length, self.levels = -1, []
        sent = self.sent
        if logits.shape[0] != 1 + len(sent.tokens):
            return
        node = -1
        for token in tokens[len(tokens) - 1 - accepted:len(tokens) - 1]:
            node = next(i for i, (t, p) in enumerate(zip(sent.tokens, sent.parents, strict=True))
                        if p == node and t == token)
        rows = []
        for step in range(self.spec.steps):
            node = next((i for i, (t, p) in enumerate(zip(sent.tokens, sent.parents, strict=True))
                         if p == node and t == self.vocab + step), -2)
            if node == -2:
                break
            rows.append(1 + node)
        if rows:
            self.levels, self.length = top(logits[rows]), len(tokens)


def _forget(forward: Any, prompts: Any) -> None:
    if forward.prompts is prompts:
        forward.prompts = None


def worth_of_prompts(hits: Sequence[Sequence[float]], steps: int, nodes: int) -> list[float]:
    """Expected accepted guesses of the best tree of ``nodes`` nodes with 0, 1, ... ``steps`` prompts, from
    the head's hits on held-out text."""
    levels = [(list(range(len(row))), [max(1e-6, h) for h in row]) for row in hits] or [([0], [0.3])] * steps
    return [0.0] + [sum(grow(levels[:k], nodes)[1]) for k in range(1, steps + 1)]


def plan(levels: Sequence[Level], rows: int, values: Sequence[float], vocab: int) -> Proposal:
    """The best division of ``rows`` between guesses and prompts. ``values[k]``: worth of k prompts."""
    if not levels:
        return _with_prompts(Proposal(), [-1] * min(rows, len(values) - 1), vocab)
    tree, worths = grow(levels, max(1, round(rows * _SHARES[-1])))
    best, chosen = -1.0, (0, list[int]())
    for share in _SHARES:
        count = min(len(tree.tokens), max(1, round(rows * share)))
        prompts, gain = _share_out(tree.parents[:count], worths[:count], rows - count, values)
        if sum(worths[:count]) + gain > best:
            best, chosen = sum(worths[:count]) + gain, (count, prompts)
    count, prompts = chosen
    return _with_prompts(Proposal(tree.tokens[:count], tree.parents[:count], tree.probs[:count]),
                         prompts, vocab)


def _share_out(parents: Sequence[int], worths: Sequence[float], rows: int, values: Sequence[float]
               ) -> tuple[list[int], float]:
    """Which nodes (-1: the root) get a prompt, once per prompt, and what they are worth."""
    ends = {-1: 1.0, **dict(enumerate(worths))}  # P(the walk ends here)
    for node, parent in enumerate(parents):
        ends[parent] -= worths[node]
    offers = [(ends[node] * (values[k + 1] - values[k]), -k, node)
              for node in ends for k in range(len(values) - 1)]
    offers.sort(reverse=True)
    taken: dict[int, int] = {}
    found: list[int] = []
    gain = 0.0
    for worth, k, node in offers:
        if len(found) == rows:
            break
        if worth > 0 and taken.get(node, 0) == -k:  # the k-th comes after those before it
            taken[node] = 1 - k
            found.append(node)
            gain += worth
    return found, gain


def _with_prompts(tree: Proposal, nodes: Sequence[int], vocab: int) -> Proposal:
    """Append one prompt token behind each of ``nodes``; the second of a node follows its first."""
    last: dict[int, tuple[int, int]] = {}  # node -> its last prompt's index, how many it has
    tree.prompts = len(nodes)
    for node in nodes:
        above, count = last.get(node, (node, 0))
        last[node] = (len(tree.tokens), count + 1)
        tree.tokens.append(vocab + count)
        tree.parents.append(above)
        tree.probs.append(None)
    return tree
