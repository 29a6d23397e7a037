"""Linear modules that multiply by the blocks of a GGUF file as they are, nothing decoded or rounded."""

from __future__ import annotations

from typing import Any

import torch

from workbench.runtime.packed import Packed

#: Block formats that the native library multiplies by.
FORMS = ("Q8_0", "Q4_0", "Q4_K")


class Blocks(Packed):
    """``raw``: uint8 [rows, bytes of a row] as a file stores them; ``form``: one of FORMS."""

    q: torch.Tensor
    scales: torch.Tensor

    def __init__(self, raw: torch.Tensor, form: str, bias: torch.Tensor | None) -> None:
        from workbench.kernels import native
        from workbench.kernels.gguf_blocks import cpu

        super().__init__()
        stored = cpu.pack(raw, form)
        self.form, self.out_features, self.in_features = form, stored.rows, stored.columns
        self.register_buffer("q", stored.q)
        self.register_buffer("scales", stored.scales)
        self.register_buffer("bias", None if bias is None else bias.float())
        self.kernel = f"native {form} blocks ({native.isa()})"

    def _stored(self) -> Any:
        from workbench.kernels.gguf_blocks import cpu

        return cpu.Stored(self.q, self.scales, self.out_features, self.in_features, self.form)

    @property
    def native_weight(self) -> Any:
        """A fresh structure of this moment's addresses; the module keeps what it points to."""
        return None if self.q.is_meta else self._stored().weight()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from workbench.kernels.native import linear

        y = linear.matmul(x.reshape(-1, self.in_features), self._stored().weight(), self.bias)
        return y.view(*x.shape[:-1], self.out_features)

    def dequantize(self) -> torch.Tensor:
        from workbench.kernels.gguf_blocks import cpu

        return cpu.dequantize(self._stored())
