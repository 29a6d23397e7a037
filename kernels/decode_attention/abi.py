"""The C structures of ``decode_attention.h``, and rows of a forward in that form."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

I32 = ctypes.c_int32
P32 = ctypes.POINTER(I32)
BF16, INT8, F32 = 0, 1, 2


class Kv(ctypes.Structure):
    """One layer's cache by address; scales 0 unless the items are int8."""

    _fields_ = [("keys", ctypes.c_void_p), ("values", ctypes.c_void_p),
                ("key_scales", ctypes.c_void_p), ("value_scales", ctypes.c_void_p)]


class Rows(ctypes.Structure):
    """Which rows there are; the arrays belong to :class:`Layout`."""

    _fields_ = [("batch", I32), ("n", I32), ("base", P32), ("first", P32), ("length", P32),
                ("path", P32), ("chain", I32), ("start", P32), ("owner", P32), ("slot", P32)]


class Attention(ctypes.Structure):
    """Heads and widths of one attention."""

    _fields_ = [("heads", I32), ("kv_heads", I32), ("width", I32), ("capacity", I32),
                ("item", I32), ("scaling", ctypes.c_float)]


class Layout:
    """``rows`` for C and the arrays behind it. ``parents``: of the drafted nodes, -1 is the root;
    ``base`` and ``first`` per sequence (see :mod:`.reference`)."""

    def __init__(self, base: Sequence[int], first: Sequence[int], parents: Sequence[int] = ()) -> None:
        n, batch = len(parents) + 1, len(base)
        paths = paths_of(parents)
        self.base, self.first = (I32 * batch)(*base), (I32 * batch)(*first)
        self.length = (I32 * n)(*map(len, paths))
        self.path = (I32 * (n * n))()
        for i, path in enumerate(paths):
            for step, node in enumerate(path):
                self.path[i * n + step] = node
        chain = all(parent == i - 1 for i, parent in enumerate(parents))
        self.rows = Rows(batch, n, self.base, self.first, self.length, self.path, int(chain))


class Ragged:
    """As :class:`Layout`, every sequence with a tree of its own: ``trees[b]`` are the parents of sequence
    b's drafted nodes, ``slot[b]`` its place in the caches."""

    def __init__(self, base: Sequence[int], first: Sequence[int], trees: Sequence[Sequence[int]],
                 slot: Sequence[int]) -> None:
        batch, counts = len(base), [1 + len(tree) for tree in trees]
        n, total = max(counts), sum(counts)
        chain = all(parent == i - 1 for tree in trees for i, parent in enumerate(tree))
        self.base, self.first, self.slot = (I32 * batch)(*base), (I32 * batch)(*first), (I32 * batch)(*slot)
        self.start = (I32 * (batch + 1))(*itertools.accumulate(counts, initial=0))
        self.owner = (I32 * total)(*(b for b, count in enumerate(counts) for _ in range(count)))
        self.length, self.path = (I32 * total)(), (I32 * (1 if chain else total * n))()
        if not chain:  # a chain's paths are known without being read
            for row, path in enumerate(p for tree in trees for p in paths_of(tree)):
                self.length[row] = len(path)
                self.path[row * n:row * n + len(path)] = [*path]
        self.rows = Rows(batch, n, self.base, self.first, self.length, self.path, int(chain), self.start,
                         self.owner, self.slot)


def paths_of(parents: Sequence[int]) -> list[list[int]]:
    """For the root (row 0) and every node the rows from the root to it."""
    paths = [[0]]
    for node, parent in enumerate(parents):
        paths.append([*paths[parent + 1], node + 1])
    return paths


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Argument types of the operation's functions."""
    library.wb_decode_attention_scratch.restype = ctypes.c_int64
    library.wb_decode_attention_scratch.argtypes = [ctypes.POINTER(Attention), I32, I32]
    library.wb_decode_attention.restype = None
    library.wb_decode_attention.argtypes = [
        ctypes.POINTER(Attention), ctypes.POINTER(Kv), ctypes.POINTER(Rows), ctypes.c_void_p,
        ctypes.c_void_p, ctypes.c_void_p]
    return library
