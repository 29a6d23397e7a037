"""What is kept of one linear layer's inputs: second moments and the size of each channel."""

from __future__ import annotations

import torch

#: Second moments of up to this many columns are summed in float64, wider ones in float32.
EXACT_COLUMNS = 1024


class Statistics:
    """Sums over all calibration tokens of an input X [tokens, columns].

    ``gram`` X^T X [columns, columns] (None where nobody asked for it), ``absolute`` sum |x| and
    ``square`` sum x^2 and ``largest`` max |x| [columns], ``tokens`` seen."""

    def __init__(self, columns: int, gram: bool = True) -> None:
        dtype = torch.float64 if columns <= EXACT_COLUMNS else torch.float32
        self.gram = torch.zeros(columns, columns, dtype=dtype) if gram else None
        self.absolute = torch.zeros(columns, dtype=torch.float64)
        self.square = torch.zeros(columns, dtype=torch.float64)
        self.largest = torch.zeros(columns)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """``x`` [..., columns], any float dtype."""
        x = x.detach().reshape(-1, x.shape[-1]).float()
        size = x.abs()
        self.absolute += size.sum(0)
        torch.maximum(self.largest, size.amax(0), out=self.largest)
        del size
        self.square += x.square().sum(0)
        self.tokens += x.shape[0]
        if self.gram is None:
            return
        if self.gram.dtype == torch.float32:
            self.gram.addmm_(x.t(), x)
        else:
            self.gram += x.t() @ x

    def mean_absolute(self) -> torch.Tensor:
        """[columns] float32."""
        return (self.absolute / max(1, self.tokens)).float()

    def finite(self) -> bool:
        return bool(torch.isfinite(self.square).all())
