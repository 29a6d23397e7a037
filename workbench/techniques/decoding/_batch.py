"""A draft model for a batch: one forward of the draft per place of the chains, over all sequences.

Each sequence has its own length in the draft's cache, so nothing is padded, and a chain that is shorter
leaves the forwards early. Rows do not depend on their company, so a sequence gets the chain that it gets
alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.techniques.decoding import Drafters, Proposal
from workbench.techniques.decoding.draft_model import STREAM

if TYPE_CHECKING:
    import torch

    from workbench.techniques.decoding.draft_model import DraftModel

#: Rows of one forward while the draft reads the prompts.
_ROWS = 512


class ModelDrafters(Drafters):
    """``_cached[s]``: the tokens of sequence s that the draft's cache holds, in its row s."""

    def __init__(self, choice: DraftModel, runtime: Any, sequences: int) -> None:
        super().__init__([])
        draft = runtime.model.draft_for(choice.draft, runtime.settings, runtime.emit)
        self._forward, self._weights_bytes = draft.forward, draft.weights_bytes
        self._sampler, self._guard = runtime.sampler, runtime.guard
        self._ratio = choice.rule == "ratio" and not runtime.sampler.greedy
        self._gamma = choice.gamma
        self._positions = min(runtime.capacity, self._forward.max_positions)
        self._cache = draft.cache(self._positions, sequences)
        self._masks = self._forward.masks([0] * sequences, self._positions)
        self._cache.show_blocks(self._masks.block)
        self._cached: list[list[int]] = [[] for _ in range(sequences)]
        self._settled = [0] * sequences

    def propose(self, which: Sequence[int], tokens: Sequence[list[int]], budgets: Sequence[int],
                limits: Sequence[int]) -> list[Proposal]:
        """Chains of ``gamma`` tokens or what budget, limit and the draft's positions leave."""
        started = time.perf_counter()
        want = {s: min(self._gamma, budget, limit, self._positions - len(text))
                for s, text, budget, limit in zip(which, tokens, budgets, limits, strict=True)}
        text = dict(zip(which, tokens, strict=True))
        going = [s for s in which if want[s] > 0]
        chains: dict[int, list[int]] = {s: [] for s in which}
        probs: dict[int, list[torch.Tensor | None]] = {s: [] for s in which}
        logits = self._catch_up({s: text[s] for s in going}) if going else None
        while logits is not None:
            places = [len(text[s]) + len(chains[s]) for s in going]
            chosen, weights = self._pick(logits, places, going)
            for s, token, q in zip(going, chosen, weights, strict=True):
                chains[s].append(token)
                probs[s].append(q)
            going = [s for s in going if len(chains[s]) < want[s]]
            logits = self._feed({s: chains[s][-1:] for s in going}) if going else None
        each = (time.perf_counter() - started) / len(which)
        return [Proposal.chain(chains[s], probs[s] if self._ratio else None, each) for s in which]

    def observe(self, which: int, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Nothing to learn; the roll-back happens against ``tokens`` at the next proposal."""

    def memory_bytes(self) -> int:
        return self._weights_bytes + self._cache.nbytes

    def _catch_up(self, text: dict[int, list[int]]) -> torch.Tensor:
        """Roll back to what is still true and read the rest -> logits [s, V] after the last tokens."""
        import torch

        for s, tokens in text.items():
            self._roll_back(s, tokens)
        last: dict[int, torch.Tensor] = {}
        chunk = max(16, _ROWS // len(text))
        left = {s: tokens[len(self._cached[s]):] for s, tokens in text.items()}
        while left:
            part = {s: tokens[:chunk] for s, tokens in left.items()}
            logits = self._feed(part)
            if not last and all(len(t) <= chunk for t in left.values()):
                return logits  # the usual case: one forward, nothing to put together
            last.update((s, row.clone()) for s, row in zip(part, logits, strict=True))
            left = {s: tokens[chunk:] for s, tokens in left.items() if len(tokens) > chunk}
        return torch.stack([last[s] for s in text])

    def _roll_back(self, s: int, tokens: list[int]) -> None:
        """Keep the longest common prefix. Settled tokens never change, so only news is compared."""
        cached = self._cached[s]
        same = min(self._settled[s], len(cached))
        limit = min(len(cached), len(tokens) - 1)
        while same < limit and cached[same] == tokens[same]:
            same += 1
        self._settled[s] = min(same, limit)
        del cached[self._settled[s]:]

    def _feed(self, parts: dict[int, list[int]]) -> torch.Tensor:
        """Append each sequence's tokens; logits [s, V] after the last of each."""
        import torch

        from workbench.runtime import ragged

        self._guard.check()
        slots = list(parts)
        bases = [len(self._cached[s]) for s in slots]
        ids = list(parts.values())
        places = [list(range(b, b + len(t))) for b, t in zip(bases, ids, strict=True)]
        rows = self._masks.ragged(slots, bases, [range(-1, len(t) - 2) for t in ids])
        found = ragged.run(self._forward, rows, ids, places, self._cache, last=True)
        for s, own in zip(slots, ids, strict=True):
            self._cached[s].extend(own)
        return torch.cat(found)

    def _pick(self, logits: torch.Tensor, places: list[int], who: list[int]
              ) -> tuple[list[int], list[torch.Tensor | None]]:
        if not self._ratio:
            return self._sampler.choose(logits, places, who).tolist(), [None] * len(who)
        probs = self._sampler.probabilities(logits)
        return self._sampler.draw(probs, places, who, stream=STREAM).tolist(), list(probs)
