"""One token through a draft whose consecutive layers read the same input: EasySpec's fuzzy forward.

Of a group of layers every attention block reads the hidden state that enters the group, so their projections
are one matrix product and their attentions one call; the feed-forward blocks then follow one after the
other, each on what was added so far (Wu et al. 2025, arXiv:2502.02493, section 3). A group of one layer is
computed exactly. Keys and values of the others are approximate and lie in the same cache as exact ones, to
be overwritten by an exact forward over the tokens that the target kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import SettingsError

if TYPE_CHECKING:
    import torch

    from workbench.runtime.cache import StaticCache
    from workbench.runtime.lean import LeanForward


@dataclass
class _Group:
    """Layers ``start`` to ``start + n``. ``qkv`` [n * rows, hidden] with the norms' weights multiplied in;
    ``out`` [n, heads * D, hidden]; ``mlps``: (norm, gate and up, down) of each."""

    start: int
    n: int
    qkv: torch.Tensor
    out: torch.Tensor
    mlps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def grouped(layers: int, size: int, edges: int) -> list[list[int]]:
    """The layers that run side by side: chunks of ``size``, ``edges`` layers at each end alone."""
    inner = range(edges, max(edges, layers - edges))
    alone = [[i] for i in range(layers) if i not in inner]
    chunks = [list(inner[i:i + size]) for i in range(0, len(inner), size)]
    return sorted(alone + chunks)


class FuzzyForward:
    """``fuzzy(token, cache) -> logits [V]``; appends one token to the cache that :meth:`cache` made."""

    def __init__(self, lean: LeanForward, groups: Sequence[Sequence[int]]) -> None:
        self._lean = lean
        self._groups = [self._group(list(g)) for g in groups]
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def _group(self, layers: list[int]) -> _Group:
        import torch

        chosen = [self._lean.layers[i] for i in layers]
        qkv = torch.cat([layer.qkv * layer.norm for layer in chosen])
        out = torch.stack([layer.out.t().contiguous() for layer in chosen])
        return _Group(layers[0], len(layers), qkv, out,
                      [(layer.mlp_norm, layer.gate_up, layer.down) for layer in chosen])

    @property
    def nbytes(self) -> int:
        """Bytes of the stacked matrices, beside the draft's own."""
        return sum(t.numel() * t.element_size() for g in self._groups for t in (g.qkv, g.out))

    def describe(self) -> str:
        """``layer 0; layers 1-4 side by side; ...``."""
        parts = [f"layers {g.start}-{g.start + g.n - 1} side by side" if g.n > 1 else f"layer {g.start}"
                 for g in self._groups]
        return "; ".join(parts)

    def cache(self, capacity: int) -> StaticCache:
        """A cache of one sequence whose layers lie one behind the other, so that a group is one tensor."""
        import torch

        from workbench.runtime.cache import full_cache

        lean = self._lean
        made = full_cache(lean.config, 1, 1, lean.device, lean.dtype)
        shape = (len(lean.layers), lean.kv_heads, capacity, lean.width)
        self._keys = torch.zeros(shape, device=lean.device, dtype=lean.dtype)
        self._values = torch.zeros_like(self._keys)
        for i, part in enumerate(made.parts):
            part.keys, part.values, part.capacity = self._keys[i:i + 1], self._values[i:i + 1], capacity
        return made

    def __call__(self, token: torch.Tensor, cache: StaticCache) -> torch.Tensor:
        """``token`` int64 [1], at the cache's end."""
        import torch.nn.functional as F

        lean, place = self._lean, cache.length
        cache.require(place + 1)
        cos, sin = lean.cos[place], lean.sin[place]
        x = lean.embedding[token]  # [1, hidden]
        for group in self._groups:
            attended = self._attend(group, x, cos, sin, place)
            for i, (norm, gate_up, down) in enumerate(group.mlps):
                x = x + attended[i]
                h = F.rms_norm(x, (x.shape[-1],), norm, lean.eps)
                gate, up = F.linear(h, gate_up).chunk(2, -1)
                x = x + F.linear(F.silu(gate) * up, down)
        cache.rewind(place + 1)
        return F.linear(F.rms_norm(x, (x.shape[-1],), lean.norm, lean.eps), lean.head)[0]

    def _attend(self, group: _Group, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, place: int
                ) -> torch.Tensor:
        """What the group's attention blocks add, all from ``x`` [1, hidden] -> [n, 1, hidden]."""
        import torch
        import torch.nn.functional as F

        lean, n = self._lean, group.n
        turned = lean.heads + lean.kv_heads
        assert self._keys is not None
        assert self._values is not None
        h = F.rms_norm(x, (x.shape[-1],), None, lean.eps)
        qkv = F.linear(h, group.qkv).view(n, turned + lean.kv_heads, lean.width)
        qk = qkv[:, :turned]
        qk = torch.addcmul(qk * cos, qk.roll(lean.width // 2, -1), sin)
        keys = self._keys[group.start:group.start + n]
        values = self._values[group.start:group.start + n]
        keys[:, :, place], values[:, :, place] = qk[:, lean.heads:], qkv[:, turned:]
        # Queries of one key head side by side: [n, key heads, group, D].
        query = qk[:, :lean.heads].view(n, lean.kv_heads, -1, lean.width)
        out = F.scaled_dot_product_attention(query, keys[:, :, :place + 1], values[:, :, :place + 1],
                                             scale=lean.scaling)
        return torch.bmm(out.reshape(n, 1, -1), group.out)


def lean_of(forward: Any, draft: str) -> LeanForward:
    """The draft's matrices in the form that can be stacked. Raises SettingsError for other models."""
    from workbench.runtime.lean import LeanForward, lighten

    lean = forward if isinstance(forward, LeanForward) else lighten(forward)
    if not isinstance(lean, LeanForward):
        raise SettingsError(f"easyspec stacks the layers of a plain Llama and draft={draft} is a "
                            f"{forward.config.model_type}; choose another draft or decoding=draft_model")
    return lean
