"""Weights: how the linear layers' matrices are stored and multiplied.

A method turns one matrix into a module that holds its bytes and multiplies by them.
``rows`` is out_features, ``columns`` is in_features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workbench.techniques.base import Technique

if TYPE_CHECKING:
    import torch

    from workbench.calibration.prepared import Prepared
    from workbench.calibration.recipe import Recipe
    from workbench.events import Event
    from workbench.settings import Settings


@dataclass(frozen=True)
class Weights(Technique):
    """Protocol of the family."""

    #: The dtype that activations, norms, embeddings and every matrix that is not packed have.
    compute_dtype: ClassVar[str] = "bfloat16"
    #: Whether text goes through the model before it is loaded the first time (minutes, then cached).
    calibrated: ClassVar[bool] = False
    #: Whether the layers multiply by ``dequantize()``; else their arithmetic itself is another.
    exact_products: ClassVar[bool] = True

    def packs_head(self) -> bool:
        """Whether the output head is packed too. A tied head is then an extra packed copy, because
        the embedding lookup keeps its matrix; an untied one is replaced."""
        return False

    def unties_head(self) -> bool:
        """Whether a head that was the embedding becomes a matrix of its own."""
        return False

    def storage_bytes(self, rows: int, columns: int) -> int:
        """Bytes of one packed matrix, scales and padding included; equals what ``pack`` allocates."""
        raise NotImplementedError

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        """``weight`` [rows, columns] on its target device -> a module ``forward(x [..., columns]) ->
        [..., rows]`` whose buffers are all that is kept, with ``kernel: str`` (what will really run)
        and ``dequantize() -> [rows, columns]`` float32."""
        raise NotImplementedError

    def prepare(self, settings: Settings, emit: Callable[[Event], None],
                cancelled: Callable[[], bool] | None) -> Prepared | None:
        """What must be known of the whole model before its first matrix is packed; None: nothing.

        Loading then asks the result's ``pack(name, bias, device)`` instead of :meth:`pack`."""
        return None


@dataclass(frozen=True)
class Calibrated(Weights):
    """A method that looks at the layers' inputs first; alone, a matrix is rounded to nearest."""

    lossless = False
    calibrated = True

    def recipe(self) -> Recipe:
        raise NotImplementedError

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.calibration import nearest

        return nearest.stored_bytes(rows, columns, self.recipe().grid)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        from workbench.calibration import nearest

        return nearest.pack(weight, bias, self.recipe().grid)

    def prepare(self, settings: Settings, emit: Callable[[Event], None],
                cancelled: Callable[[], bool] | None) -> Prepared | None:
        from workbench.calibration import prepared

        return prepared.prepare(settings, self.recipe(), emit, cancelled)
