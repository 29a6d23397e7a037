"""A peer's logits in the form that :mod:`workbench.quality` reads: rows through a cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from workbench.backends.base import Peer
    from workbench.shape import ModelShape


class Position:
    """How far the peer's own cache is filled."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0

    def rewind(self, length: int) -> None:
        self.length = length


class _Rows:
    """A peer masks by itself."""

    def rows(self, base: int, n: int) -> None:
        return None


class _NoLayers:
    """What a cancel could be heard between: nothing that we can reach."""

    base_model = None


class PeerForward:
    """As :class:`workbench.runtime.forward.Forward`, over a peer."""

    first = 1  # any token, to ask whether there are logits

    def __init__(self, peer: Peer, shape: ModelShape) -> None:
        loaded = getattr(peer, "loaded", None)
        self.model = loaded.model if loaded is not None else _NoLayers()
        self._peer, self.vocab, self.max_positions = peer, shape.vocab, shape.max_positions

    def masks(self, pads: list[int], capacity: int) -> _Rows:
        return _Rows()

    @contextlib.contextmanager
    def guarded(self, guard: Any) -> Iterator[None]:
        yield

    def __call__(self, ids: torch.Tensor, places: torch.Tensor, mask: Any, cache: Position,
                 keep: int) -> torch.Tensor:
        """``ids`` int64 [1, n] -> float32 [1, n, V]."""
        logits = self._peer.extend(ids[0].tolist(), cache.length)
        assert logits is not None
        cache.length += ids.shape[1]
        return logits[None, -keep:, :self.vocab]
