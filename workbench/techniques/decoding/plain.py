"""Plain autoregressive decoding: one forward, one token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.techniques.decoding import Decoding


@dataclass(frozen=True)
class Plain(Decoding):
    """One forward of the target per token: the baseline of every speculative method."""

    title = "plain decoding"

    def start(self, runtime: Any) -> None:
        return None
