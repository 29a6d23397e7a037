"""Converting autoencoder and early classifier (CBNet): hard images become easy ones first.

An autoencoder maps a hard image to an easy one of the same class; a small classifier, cut from a
network with early exits, suffices for that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "CBNet: a converting autoencoder for early-exit networks"
LEFT_OUT = "the training pairs of hard and easy images"


class ConvertingNetwork(nn.Module):
    """``[B, 1, 28, 28]`` -> class logits ``[B, 10]``."""

    def __init__(self, width: int = 256, code: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(),
                                     nn.Linear(width, code), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(code, width), nn.ReLU(), nn.Linear(width, 784), nn.Sigmoid(),
                                     nn.Unflatten(1, (1, 28, 28)))
        self.early = nn.Sequential(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
                                   nn.Linear(8 * 12 * 12, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.early(self.decoder(self.encoder(images)))


def make(batch: int) -> tuple[nn.Module, Any]:
    return ConvertingNetwork(), torch.rand(batch, 1, 28, 28)
