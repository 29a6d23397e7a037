"""Long texts in blocks: a head that reads a whole prompt does so in parts."""

from __future__ import annotations

from collections.abc import Iterator

#: Tokens that a head reads at once.
BLOCK = 256


def blocks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """[start, end) in parts of at most BLOCK."""
    while start < end:
        yield start, min(start + BLOCK, end)
        start += BLOCK
