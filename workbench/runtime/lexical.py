"""Decoding by lexical units: several tokens a forward, kept where the model itself is sure, never verified.

The rows of a step are the tokens that are not in the cache yet and, behind them, [PAD] rows; the last real
row gives the next token, and each [PAD] row one more behind it. What is kept is fed as real tokens in the
next step, so the cache holds real tokens only, and the next step's rows also say what the model would have
answered at each place that was not verified: that is the agreement counted here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from workbench.runtime.loop import Loop

if TYPE_CHECKING:
    from workbench.runtime.loop import Sequence


class LexicalLoop(Loop):
    """One sequence. ``pads``: [PAD] rows of a step, with the ids from ``first`` on (the forward's own
    embeddings beyond the vocabulary); ``beta``: the probability that a further token must have."""

    def __init__(self, *args: Any, count: int, first: int, beta: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._count, self._first, self._beta = count, first, beta
        self.steps = self.units = 0
        self.agreed = self.checked = 0

    def mean_accepted(self) -> float:
        return self.emitted / self.steps if self.steps else 1.0

    def says(self) -> dict[str, str]:
        """Tokens per forward, and how often the model would have said the same one by one."""
        if not self.steps:
            return {}
        said = f"{self.mean_accepted():.2f} tokens per forward"
        if self.checked:
            said += (f"; {self.agreed} of {self.checked} tokens taken ahead agree with what the model says "
                     "one by one")
        return {"": said}

    def advance(self) -> None:
        sequence = self.active[0]
        base = self.cache.length
        fed = sequence.ids[base:]
        pads = min(self._count, self.max_new - sequence.new - 1)
        logits, started = self.run_rows("decode", len(fed) + pads, lambda: self._forward(base, fed, pads))
        self._check(fed, logits, base)
        tokens = self._unit(sequence, logits[len(fed) - 1:], pads)
        self.cache.rewind(base + len(fed))
        self._last_s = self._phase("decode", started, len(fed) + pads, len(tokens))
        self._append(sequence, tokens)
        self.steps += 1
        self.emitted += len(tokens)
        self._retire()

    def _forward(self, base: int, fed: list[int], pads: int) -> torch.Tensor:
        """Logits [fed + pads, V]."""
        ids = [*fed, *range(self._first, self._first + pads)]
        n = len(ids)
        both = torch.tensor([ids, list(range(base, base + n))]).to(self.forward.device)
        mask = self.masks.tree(base, list(range(-1, n - 2)), list(range(1, n)))
        return self.forward(both[:1], both[1:], mask, self.cache, n)[0]

    def _unit(self, sequence: Sequence, logits: torch.Tensor, pads: int) -> list[int]:
        """The first token, and further ones as long as each is sure and does not repeat the one before."""
        places = [len(sequence.ids) + i for i in range(1 + pads)]
        chosen = self.sampler.choose(logits, places, [sequence.index] * len(places)).tolist()
        sure = logits.float().softmax(-1).gather(-1, torch.tensor(chosen, device=logits.device)[:, None])
        tokens = chosen[:1]
        for token, p in zip(chosen[1:], sure[1:, 0].tolist(), strict=True):
            if tokens[-1] in self.stops or p < self._beta or token == tokens[-1]:
                break
            tokens.append(token)
        return tokens

    def _check(self, fed: list[int], logits: torch.Tensor, base: int) -> None:
        """The rows of tokens that are fed now, against those that were taken ahead."""
        if len(fed) < 2:
            return
        places = [base + 1 + i for i in range(len(fed) - 1)]
        now = self.sampler.choose(logits[:len(places)], places, [self.active[0].index] * len(places)).tolist()
        self.checked += len(places)
        self.agreed += sum(a == b for a, b in zip(now, fed[1:], strict=True))
