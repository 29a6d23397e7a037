"""SpecEE: tokens that are settled leave the model early, looked at through a draft's few candidates.

Xu et al. 2025, arXiv:2504.08850, sections 4 to 6. Not lossless: a token that leaves early is what its layer
said, and the last layer might have said another; how often they agree is counted while decoding. Keys and
values of the layers above are computed when a later token needs them (the released code leaves them out).
The paper's combination with token trees (section 7) is not here.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Decoding, Drafter

if TYPE_CHECKING:
    import torch

    from workbench.machine import Machine
    from workbench.settings import Settings
    from workbench.shape import ModelShape

#: Tokens whose exits the schedule remembers, and how far around them it looks.
_RECENT, _REACH = 5, 1
_FEWEST = 2


@dataclass(frozen=True)
class SpecEE(Decoding):
    """Predictors at some layers say whether the answer is settled among a draft's guesses; it then leaves."""

    title = "speculative early exit (SpecEE)"
    paper = Paper("2504.08850", "Xu et al. 2025", "4 to 6")
    claim = Claim("2.25x on a cloud GPU, 2.43x on a PC", setup="Llama-2 7B; an engine of their own included",
                  memory="a draft and about 0.1 % for the predictors")
    lossless = False
    needs = ("draft",)
    draft: str = control("auto", help="who names the candidates; auto: the bundled draft; or a hub id "
                                      "or folder")
    candidates: int = control(4, 2, 8, help="tokens that the predictors look at")
    threshold: float = control(0.95, 0.5, 0.995, step=0.005, help="how sure a predictor must be")
    layers: str = control("dynamic", choices=("dynamic", "static", "all"),
                          help="where predictors are asked; static: half of the layers, those at which most "
                               "answers settle; dynamic: a quarter and the neighbourhood of the last exits")

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        from workbench.runtime.drafts import why_not

        if shape.layers < _FEWEST:
            return "specee leaves between layers and this model has one"
        return super().applies(shape, machine) or why_not(self.draft, shape)

    def refuses(self, settings: Settings) -> str | None:
        from workbench.techniques.decoding.draft_model import DraftModel

        if settings.limits.batch > 1:
            return "specee decodes one sequence at a time; set limits.batch=1"
        if settings.tiers.name() != "resident":
            return "specee jumps between layers, which must be resident; set tiers=resident"
        if settings.kv.name() not in ("full", "int8"):
            return "specee writes a layer's keys and values later than others'; set kv=full or kv=int8"
        return DraftModel(draft=self.draft).refuses(settings)

    def start(self, runtime: Any) -> Drafter | None:
        return None

    def loop(self, runtime: Any, sequences: int) -> Callable[..., Any]:
        from workbench.errors import SettingsError
        from workbench.runtime.early_exit import EarlyExitLoop

        if sequences > 1:
            raise SettingsError("specee decodes one sequence at a time; give one prompt")
        return functools.partial(EarlyExitLoop, exits=PredictedExits(self, runtime))


class PredictedExits:
    """The draft's candidates, the predictors and where to ask them."""

    def __init__(self, choice: SpecEE, runtime: Any) -> None:
        from workbench.techniques.decoding._draft_tree import TreeDraft
        from workbench.techniques.decoding._specee_train import predictors_for

        draft = runtime.model.draft_for(choice.draft, runtime.settings, runtime.emit)
        self.predictors = predictors_for(runtime, draft, choice.candidates)
        self._draft = TreeDraft(draft.forward, draft.cache, draft.weights_bytes, runtime)
        self._choice = choice
        module = runtime.model.loaded.model
        self._norm = module.get_decoder().norm
        self._dtype = runtime.model.dtype
        self._rows, self._held = _head_rows(module.get_output_embeddings())
        layers = self.predictors.layers
        share = {"dynamic": 4, "static": 2, "all": 1}[choice.layers]
        self._static = self.predictors.best_layers(max(1, len(layers) // share))
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._candidates: torch.Tensor | None = None
        self._before: torch.Tensor | None = None

    def begin(self, tokens: list[int]) -> list[int]:
        """The draft names the candidates of the next token -> the layers to ask at."""
        from workbench.techniques.decoding._predictors import scheduled

        logits = self._draft.read(tokens)
        self._candidates = logits[0].topk(self._choice.candidates).indices
        self._few = self._rows[self._candidates]
        self._before = None
        if self._choice.layers != "dynamic":
            return self._static
        return scheduled(self._static, self._recent, self.predictors.layers, _REACH)

    def sure(self, layer: int, state: torch.Tensor) -> bool:
        """What the layer's predictor says; it sees the candidates' logits only."""
        from workbench.techniques.decoding._predictors import features

        normed = self._norm(state.to(self._dtype)[None])
        seen, self._before = features((normed @ self._few.t())[0].float(), self._before)
        return float(self.predictors(layer, seen)) >= self._choice.threshold

    def confirms(self, logits: torch.Tensor) -> bool:
        """The answer over the whole vocabulary must be a candidate."""
        assert self._candidates is not None
        return int(logits.argmax()) in self._candidates.tolist()

    def ended(self, layer: int) -> None:
        self._recent.append(layer)

    def memory_bytes(self) -> int:
        return self._draft.memory_bytes() + self.predictors.nbytes + self._held


def _head_rows(head: Any) -> tuple[torch.Tensor, int]:
    """The head's matrix [V, hidden] for single rows, and the bytes that a copy of a packed one takes."""
    import torch

    from workbench.runtime.packed import Packed

    weight = getattr(head, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.is_floating_point() and weight.dim() == 2:
        return weight, 0
    assert isinstance(head, Packed)
    rows = head.dequantize().to(torch.bfloat16)
    return rows, rows.numel() * 2
