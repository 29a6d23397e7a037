"""Mixed precision: every matrix gets the scheme that its own sensitivity pays for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch

    from workbench.calibration.prepared import Prepared
    from workbench.events import Event
    from workbench.settings import Settings
    from workbench.techniques.base import Technique

_METHODS = "int8 int4/group=32 int4/group=64 int4/group=128"


@dataclass(frozen=True)
class Mixed(Weights):
    """One scheme per matrix: the error map says what each scheme costs each matrix, and the mixture with
    the least summed KL under the budget is chosen exactly.

    The map is measured once per model and kept in the cache. Matrices run in the kernels of their own
    scheme. Embedding and head stay as they are. Size shown before loading is the budget's (estimated)."""

    title = "Mixed precision under a budget"
    paper = Paper("2011.10680", "Yao et al. 2020", "the choice under a budget; sensitivity after 1911.03852")
    claim = Claim("23 % less latency than 8 bits at 76.73 % top-1, where 8 bits have 77.58 %",
                  setup="ResNet50 on ImageNet, 4 and 8 bits mixed, retrained; T4 GPU",
                  memory="as the budget says: bits / 16 of bfloat16")
    lossless = False
    bits: float = control(4.5, 1.5, 16.0, soft=(3.0, 8.0), step=0.25, unit="bits",
                          help="stored bits per weight of the decoder's matrices, scales counted")
    methods: str = control(_METHODS, help="schemes to choose from, as int4/group=32, separated by spaces; "
                           "bf16 is always among them")
    plan: str = control("auto", help="auto; one scheme for all, like int4/group=64, to raise from; or the "
                        "path of a plan that `workbench plan --save` wrote")
    raised: str = control("", help="matrices with another scheme, like layers.3.mlp.down_proj:int8, "
                          "separated by spaces; they may pass the budget")
    tokens: int = control(512, 256, 65536, soft=(256, 4096), unit="tokens",
                          help="text on which the error map is measured")

    def named(self) -> dict[str, list[Technique]]:
        from workbench.sensitivity.plan import scheme
        from workbench.techniques.base import family

        found: dict[str, list[Technique]] = {
            "methods": [scheme(m) for m in self.methods.split()],
            "raised": [scheme(r.rpartition(":")[2]) for r in self.raised.split()]}
        if self.plan.partition("/")[0] in family("weights"):
            found["plan"] = [scheme(self.plan)]
        return found

    def storage_bytes(self, rows: int, columns: int) -> int:
        return self._nearest().storage_bytes(rows, columns)

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        return self._nearest().pack(weight, bias)

    def _nearest(self) -> Weights:
        """For a matrix without a plan: the offered scheme whose size is nearest to the budget."""
        from workbench.sensitivity.plan import scheme

        side = 1024
        return min(map(scheme, self.methods.split()),
                   key=lambda m: abs(8 * m.storage_bytes(side, side) / side**2 - self.bits))

    def prepare(self, settings: Settings, emit: Callable[[Event], None],
                cancelled: Callable[[], bool] | None) -> Prepared | None:
        from workbench.sensitivity import mixture

        return mixture.prepare(settings, self, emit, cancelled)  # type: ignore[return-value]
