"""Clover: heads in sequence, each of which sees the token that was guessed before it.

Xiao et al. 2024, arXiv:2405.00263, section 3: an augmenting block (a decoder layer over the target's
features), an attention decoder from the running state to the embeddings of the tokens since then, and the
regressive connection from each step's state to the next. The paper leaves open over which tokens a step
attends; here over all tokens on the path since the augmenting block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from workbench.heads.blocks import Layer, Memory, Norm, Residual
from workbench.heads.distil import Batch, Guesses, Head
from workbench.heads.spec import HeadSpec
from workbench.heads.target import Target


class Clover(Head):
    """``options``: ``heads``, ``kv_heads`` and ``inner`` of the augmenting block."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        o, width = spec.options, spec.hidden
        self.augment = Layer(width, o["heads"], o["kv_heads"], o["inner"])
        self.state_norm, self.token_norm = Norm(width), Norm(width)
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4))
        self.mlp = Residual(width)
        self.heads = o["heads"]
        nn.init.zeros_(self.out.weight)

    def see(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [..., hidden] of tokens' embeddings."""
        tokens = self.token_norm(embedded)
        return self.key(tokens), self.value(tokens)

    def step(self, state: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """``state`` [N, hidden], the path's tokens so far [N, d, hidden] -> the next state [N, hidden]."""
        rows, _, width = keys.shape
        split = (rows, -1, self.heads, width // self.heads)
        q = self.query(self.state_norm(state)).view(split).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, keys.view(split).transpose(1, 2),
                                               values.view(split).transpose(1, 2))
        return self.mlp(state + self.out(mixed.transpose(1, 2).reshape(rows, width)))

    def guesses(self, batch: Batch, target: Target) -> Guesses:
        """Teacher forcing: the tokens between are the text's."""
        size, length = batch.tokens.shape
        steps, usable = self.spec.steps, length - self.spec.steps
        state = self.augment(batch.features, torch.arange(length, device=batch.tokens.device))
        state = state[:, :usable].reshape(size * usable, -1)
        keys, values = self.see(target.embed(batch.tokens).to(batch.features.dtype))
        students, teachers = [], []

        def path(x: torch.Tensor, d: int) -> torch.Tensor:
            seen = torch.stack([x[:, 1 + j:1 + j + usable] for j in range(d)], 2)
            return seen.reshape(size * usable, d, -1)

        for i in range(steps):
            state = self.step(state, path(keys, i + 1), path(values, i + 1))
            students.append(target.logits(state))
            teachers.append(batch.teacher[:, 1 + i:1 + i + usable].flatten(0, 1))
        return students, teachers

    def memory(self, capacity: int) -> Memory:
        return self.augment.memory(capacity)
