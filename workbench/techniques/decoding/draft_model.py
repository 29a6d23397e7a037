"""Draft model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Decoding, Drafter


@dataclass(frozen=True)
class DraftModel(Decoding):
    """A small model proposes a chain of tokens; the target verifies them in one forward."""

    title = "draft model"
    paper = Paper("2211.17192", "Leviathan et al. 2023")
    claim = Claim("2-3x", setup="T5-XXL 11B with T5-small, TPU-v4, batch 1")
    needs = ("draft",)
    draft: str = control("auto", help="auto: the bundled draft; or a hub id or folder")
    gamma: int = control(4, 1, 32, soft=(1, 12), unit="tokens", help="tokens drafted per verification")

    def rows(self) -> int:
        return 1 + self.gamma

    def start(self, runtime: Any) -> Drafter:
        raise NotImplementedError
