"""CoreInfer: after the prompt, only the neurons that it used most are computed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Decoding, Drafter

if TYPE_CHECKING:
    from workbench.settings import Settings


@dataclass(frozen=True)
class CoreNeurons(Decoding):
    """The prompt fixes which feed-forward neurons the rest is computed with; the others are skipped.

    Not lossless: a text that leaves the prompt's subject has the wrong neurons. The kept ones are copied
    into smaller matrices in every layer, so a step reads that much less; the copies are memory beside the
    model. The paper leaves its first and last layers whole."""

    title = "core neurons (CoreInfer)"
    paper = Paper("2410.18311", "Wang et al. 2024", "3 and 4")
    claim = Claim("10.33x over transformers, which has to offload, and 2.72x over PowerInfer",
                  setup="OPT-6.7B (ReLU) on a TITAN Xp of 12 GB")
    lossless = False
    share: float = control(0.4, 0.02, 1.0, soft=(0.2, 0.9), help="of each layer's neurons that stay")
    ranking: str = control("contribution", choices=("contribution", "coreinfer", "random"),
                           help="contribution: |activation| times the output column's norm, for gated "
                                "layers; coreinfer: the paper's count of strong positive ones, made for ReLU")

    def refuses(self, settings: Settings) -> str | None:
        if settings.limits.batch > 1:
            return "core_neurons fixes the neurons of one text; set limits.batch=1"
        if settings.tiers.name() != "resident":
            return "core_neurons gathers rows of layers that must be resident; set tiers=resident"
        if settings.weights.name() not in ("bf16", "fp32"):
            return "core_neurons gathers rows of dense matrices; set weights=bf16"
        return None

    def start(self, runtime: Any) -> Drafter | None:
        return None

    def loop(self, runtime: Any, sequences: int) -> Callable[..., Any]:
        from workbench.errors import SettingsError
        from workbench.runtime.core_neurons import CoreNeuronsLoop

        if sequences > 1:
            raise SettingsError("core_neurons fixes the neurons of one text; give one prompt")
        mlp = runtime.model.forward.layers[0].mlp if hasattr(runtime.model.forward.layers[0], "mlp") else None
        if not all(hasattr(mlp, n) for n in ("gate_proj", "up_proj", "down_proj")):
            raise SettingsError("core_neurons knows gated feed-forward parts (gate, up, down), which this "
                                "model does not have; choose decoding=plain")
        return functools.partial(CoreNeuronsLoop, share=self.share, ranking=self.ranking)
