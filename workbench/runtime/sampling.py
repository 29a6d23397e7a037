"""From logits to a token: greedy, or temperature, top-k and top-p with reproducible noise.

Sampling uses the exponential race (Gumbel-max): argmax_i p_i / e_i with e ~ Exp(1) is a draw from p.
The noise depends only on (seed, sequence, position), never on what was computed before, so plain
and speculative decoding with one seed take the same draw at the same place: same text, any drafter.
"""

from __future__ import annotations

import torch

_MASK = (1 << 64) - 1
_KEPT_NOISE = 64  # positions kept: a draft and its verification use the same vector


def mix(*parts: int) -> int:
    """splitmix64 over the parts: neighbours (seed, position) get unrelated generator seeds."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


class Sampler:
    """One run's rule for choosing tokens. ``temperature`` 0 is greedy: the noise is never drawn."""

    def __init__(self, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0,
                 device: torch.device | str = "cpu") -> None:
        self.temperature, self.top_k, self.top_p, self.seed = temperature, top_k, top_p, seed
        self.greedy = temperature == 0.0
        self.sequence = 0
        self._generator = torch.Generator(device=device)
        self._noise: dict[tuple[int, int, int], torch.Tensor] = {}

    def of(self, sequence: int) -> Sampler:
        """The same rule and seed; draws without a named sequence are those of ``sequence``."""
        if sequence == self.sequence:
            return self
        other = Sampler(self.temperature, self.top_k, self.top_p, self.seed, self._generator.device)
        other.sequence = sequence
        other._noise = self._noise  # a draft's draws are its verification's too
        return other

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """[..., V] -> float32 [..., V]: the distribution that a token is really drawn from.

        Order as everywhere: temperature, then top-k, then top-p on what is left."""
        if self.greedy:
            best = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, best, 1.0)
        scores = logits.float() / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k, -1).values[..., -1:]
            scores = scores.masked_fill(scores < least, float("-inf"))
        probs = scores.softmax(-1)
        return self._nucleus(probs) if self.top_p < 1.0 else probs

    def _nucleus(self, probs: torch.Tensor) -> torch.Tensor:
        """The fewest likeliest tokens that hold ``top_p`` (Holtzman et al. 2020, section 3.1)."""
        ranked, order = probs.sort(-1, descending=True)
        before = ranked.cumsum(-1) - ranked
        ranked = ranked.masked_fill(before >= self.top_p, 0.0)
        kept = torch.zeros_like(probs).scatter_(-1, order, ranked)
        return kept / kept.sum(-1, keepdim=True)

    def choose(self, logits: torch.Tensor, positions: list[int], sequences: list[int] | None = None
               ) -> torch.Tensor:
        """[n, V] -> int64 [n]: the token for each row, its position known by ``positions``."""
        if self.greedy:
            from workbench.runtime.native import argmax

            return argmax(logits)
        return self.draw(self.probabilities(logits), positions, sequences)

    def scores(self, logits: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """[n, V] -> [n, V] whose largest entry is what :meth:`choose` takes: a draft's next guesses are
        the next largest."""
        if self.greedy:
            return logits
        probs = self.probabilities(logits)
        return probs / torch.stack([self._race(probs.shape[-1], self.sequence, p, 0) for p in positions])

    def draw(self, probs: torch.Tensor, positions: list[int], sequences: list[int] | None = None,
             stream: int = 0) -> torch.Tensor:
        """[n, V] probabilities -> int64 [n]. Another ``stream`` is independent noise."""
        who = sequences or [self.sequence] * len(positions)
        size = probs.shape[-1]
        noise = [self._race(size, s, p, stream) for s, p in zip(who, positions, strict=True)]
        return (probs / (noise[0] if len(noise) == 1 else torch.stack(noise))).argmax(-1)

    def uniform(self, position: int, sequence: int | None = None, stream: int = 1) -> float:
        """One number in [0, 1) for an accept test."""
        who = self.sequence if sequence is None else sequence
        self._generator.manual_seed(mix(self.seed, who, position, stream, 0x5EED))
        return float(torch.rand((), generator=self._generator, device=self._generator.device))

    def _race(self, size: int, sequence: int, position: int, stream: int) -> torch.Tensor:
        """e ~ Exp(1), [size]. A shorter vocabulary gets a prefix of the same numbers' stream."""
        key = (sequence, position, stream)
        held = self._noise.get(key)
        if held is None or held.shape[0] != size:
            self._generator.manual_seed(mix(self.seed, sequence, position, stream))
            held = torch.empty(size, device=self._generator.device)
            held.exponential_(generator=self._generator)
            while len(self._noise) >= _KEPT_NOISE:
                self._noise.pop(next(iter(self._noise)))
            self._noise[key] = held
        return held
