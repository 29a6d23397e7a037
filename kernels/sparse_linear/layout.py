"""Two numbers of the stored form, for whoever counts bytes without torch."""

from __future__ import annotations

#: Places of one word of bits.
WORD = 32
#: Numbers behind the last one, so that whole vectors can be read.
TAIL = 32
