"""Text as it appears, token by token, never half a character.

A token may hold part of a character's UTF-8 bytes; its text is then empty and the token that
completes the character carries it. The pieces always join to the decoded whole.
"""

from __future__ import annotations

from typing import Any

_OPEN = "�"  # what decoders print for an unfinished character


class Stream:
    """Incremental decoding of one sequence's new tokens.

    Decodes a short window twice, with and without the new token, so that tokenizers which look at
    neighbours (SentencePiece's leading space) give the right piece. The window moves on at every
    completed piece, so a token costs two short decodes however long the text is."""

    def __init__(self, tokenizer: Any, before: list[int] | None = None) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = list((before or [])[-4:])
        self._start, self._done = 0, len(self._ids)
        self._known = self._decode(self._ids)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True,
                                      clean_up_tokenization_spaces=False) if ids else ""

    def push(self, token: int) -> str:
        """The text that this token completed; empty while a character is open."""
        self._ids.append(token)
        text = self._decode(self._ids[self._start:])
        if text.endswith(_OPEN) or len(text) <= len(self._known):
            return ""
        piece = text[len(self._known):]
        self._start = self._done
        self._done = len(self._ids)
        self._known = self._decode(self._ids[self._start:self._done])
        if len(self._ids) > 256:
            del self._ids[:self._start]
            self._done -= self._start
            self._start = 0
        return piece

    def rest(self) -> str:
        """What an unfinished end decodes to, replacement character included."""
        text = self._decode(self._ids[self._start:])
        return text[len(self._known):]
