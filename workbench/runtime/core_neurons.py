"""Decoding with the neurons that the prompt used most: rows of the feed-forward part that are really skipped.

CoreInfer (Wang et al. 2024, arXiv:2410.18311, sections 3 and 4): while the prompt is read, each layer's
neurons are ranked; then the most active share of them is gathered once into smaller matrices, and every
following token is computed with those alone. No predictor, and nothing changes from token to token.

Rankings. ``coreinfer`` counts how often a neuron is among a token's strongest positive ones (the paper, made
for ReLU). ``contribution`` sums |a| times the norm of the neuron's output column, which suits gated
feed-forward parts, where a large negative activation matters as much.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from workbench.runtime.loop import Loop

if TYPE_CHECKING:
    from workbench.runtime.forward import Forward

RANKINGS = ("contribution", "coreinfer", "random")
#: Share of a token's positive neurons that are its core (the paper's alpha).
TOKEN_CORE = 0.4
#: Kept neurons come in steps of this many.
STEP = 32


class Ranker:
    """Sums over the tokens that a layer sees; ``scores`` [layers, neurons]."""

    def __init__(self, layers: list[Any], ranking: str) -> None:
        self.ranking = ranking
        downs = [layer.mlp.down_proj for layer in layers]
        self.columns = [_matrix(d).float().norm(dim=0) for d in downs]
        self.scores = torch.zeros(len(downs), downs[0].in_features)
        self._downs = downs

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        hooks = [down.register_forward_pre_hook(lambda m, args, i=i: self._see(i, args[0]))
                 for i, down in enumerate(self._downs)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _see(self, index: int, a: torch.Tensor) -> None:
        flat = a.detach().reshape(-1, a.shape[-1]).float()
        if self.ranking == "contribution":
            self.scores[index] += flat.abs().sum(0) * self.columns[index]
        elif self.ranking == "coreinfer":
            positive = flat.clamp(min=0)
            most = max(1, round(TOKEN_CORE * float((flat > 0).sum(1).float().mean())))
            core = positive.topk(min(most, flat.shape[1]), dim=1).indices
            self.scores[index].scatter_add_(0, core.flatten(), torch.ones(core.numel()))
        else:
            self.scores[index] = torch.rand(flat.shape[1], generator=torch.Generator().manual_seed(index))

    def cores(self, share: float) -> list[torch.Tensor]:
        """Per layer the neurons that stay, rising; the same number in every layer."""
        count = kept(self.scores.shape[1], share)
        return [s.topk(count).indices.sort().values for s in self.scores]


def kept(neurons: int, share: float) -> int:
    """Neurons that stay, in whole steps where there are enough."""
    return max(1, min(neurons, -(-round(share * neurons) // STEP) * STEP))


def _matrix(module: Any) -> torch.Tensor:
    weight = getattr(module, "weight", None)
    return weight.detach() if weight is not None else module.dequantize()


class CoreNeuronsLoop(Loop):
    """Plain decoding after a prompt that was watched; the model is whole again when the run is over.

    The prompt runs module by module, because that is where activations can be seen."""

    def __init__(self, *args: Any, share: float, ranking: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.share, self.ranking = share, ranking
        self.cores: list[torch.Tensor] = []
        self._narrow = contextlib.ExitStack()
        self._all = int(self.forward.config.intermediate_size)
        self._bytes = 0

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._narrow.close()

    def prefill(self) -> None:
        ranker = Ranker(self.forward.layers, self.ranking)
        executor, self.forward.executor = self.forward.executor, None
        if executor is not None:  # rows of one sequence are masked over whole blocks
            self.cache.show_blocks(self.masks.block)
        try:
            with ranker.watching():
                super().prefill()
        finally:
            self.forward.executor = executor
        self.cores = ranker.cores(self.share)
        self._narrow.enter_context(narrowed(self.forward, self.cores))
        self._bytes = sum(t.numel() * t.element_size() for layer in self.forward.layers
                          for t in layer.mlp.parameters())

    def says(self) -> dict[str, str]:
        if not self.cores:
            return {}
        return {"share": f"{len(self.cores[0])} of {self._all} neurons in each of {len(self.cores)} layers, "
                         f"gathered into {self._bytes / 1e6:.1f} MB beside the model"}


@contextlib.contextmanager
def narrowed(forward: Forward, cores: list[torch.Tensor]) -> Iterator[None]:
    """While this is open, feed-forward parts are copies of the neurons ``cores`` alone.

    The native executor, where there is one, gets a plan over the copies."""
    from workbench.runtime import native
    from workbench.runtime.packed import Dense

    executor, config = forward.executor, forward.config
    whole = config.intermediate_size
    originals = [(layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj) for layer in forward.layers]
    try:
        for layer, core, (gate, up, down) in zip(forward.layers, cores, originals, strict=True):
            layer.mlp.gate_proj = Dense(_matrix(gate)[core].contiguous(), _rows(gate, core))
            layer.mlp.up_proj = Dense(_matrix(up)[core].contiguous(), _rows(up, core))
            layer.mlp.down_proj = Dense(_matrix(down)[:, core].contiguous(), _rows(down, None))
        config.intermediate_size = len(cores[0])
        if executor is not None:
            forward.executor = native.executor_for(forward)[0]
        yield
    finally:
        forward.executor, config.intermediate_size = executor, whole
        for layer, (gate, up, down) in zip(forward.layers, originals, strict=True):
            layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj = gate, up, down


def _rows(module: Any, core: torch.Tensor | None) -> torch.Tensor | None:
    bias = getattr(module, "bias", None)
    return None if bias is None else bias.detach() if core is None else bias.detach()[core].contiguous()
