"""Measuring the error map: one matrix at a time is stored as a scheme would store it, the rest stays.

The whole model is in memory once, in float32 (bfloat16 above 200 million parameters). The text runs
through it once and the states between the layers are kept, so a changed matrix of layer l needs only
the layers from l on. The KL divergence of each matrix alone is what mixed precision adds up: for small
errors the loss is a sum of squares, and single contributions add up to first order (HAWQ-V2, Dong et
al. 2019, arXiv:1911.03852, section 3; the sum is checked against a joint measurement in benchmarks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.calibration import text
from workbench.calibration.layers import Call, Layer, Opened, run_layer
from workbench.calibration.prepared import dtype_for
from workbench.errors import Cancelled, ModelError, SettingsError
from workbench.events import Event, Progress
from workbench.quality.statistics import mean_and_error
from workbench.runtime.tokens import tokenizer_for
from workbench.sensitivity import errors
from workbench.sensitivity.errors import Cell, ErrorMap, Journal
from workbench.techniques.base import parse
from workbench.techniques.weights import Calibrated, Weights

if TYPE_CHECKING:
    from workbench.calibration.prepared import Prepared
    from workbench.settings import Settings

Emit = Callable[[Event], None]
#: Tokens at once through a layer and through the head.
BATCH_TOKENS = 1024


def error_map(settings: Settings, methods: tuple[str, ...], emit: Emit,
              cancelled: Callable[[], bool] | None = None, *, tokens: int = 1024, length: int = 256,
              source: str = "bundled", kl: bool = True) -> ErrorMap:
    """The map of ``settings.model`` under ``methods`` ("int4(group=64)" ...): from the cache, or made now.

    ``tokens`` of text in windows of ``length``, drawn as calibration text is (never evaluation text).
    Emits ``Progress`` ("sensitivity"). Raises SettingsError (a method that does not fit, too little text),
    ModelError (NaN weights, experts), StoreError, Cancelled; what was measured is kept and gone on from, and
    what another map of the same text already has is not measured again."""
    if tokens < text.MIN_TOKENS:
        raise SettingsError(f"{tokens} tokens of text are too few to tell matrices apart; take at least "
                            f"{text.MIN_TOKENS}")
    chosen = {str(m): m for m in map(_method, methods)}
    about = {"model": settings.model.source, "tokens": tokens, "length": length, "text": source, "kl": kl,
             "dtype": str(dtype_for(settings)).removeprefix("torch.")}
    path = errors.place(settings, about, chosen)
    if path.is_file():
        return errors.load(path)
    journal = Journal(path)
    for cell in errors.known(settings, about):
        if cell.method in chosen:
            journal.done.setdefault((cell.module, cell.method), cell)
    work = _Work(settings, chosen, emit, cancelled or (lambda: False), journal, kl)
    try:
        with torch.no_grad():
            work.run(tokens, length, source)
    finally:
        work.close()
    found = ErrorMap(about, tuple(work.journal.done[key] for key in work.order))
    errors.save(found, path)
    work.journal.remove()
    return found


def _method(name: str) -> Weights:
    method = parse("weights", name)
    assert isinstance(method, Weights)
    if method.name() == "mixed":
        raise SettingsError("a mixture cannot be measured matrix by matrix; name schemes like int4 or int8")
    if not method.exact_products:
        raise SettingsError(f"{method} changes how products are made, not the matrices, so there is no error "
                            "of a matrix; choose a scheme that stores other weights")
    recipe = method.recipe() if isinstance(method, Calibrated) else None
    if recipe is not None and (recipe.scaling or recipe.rotation):
        raise SettingsError(f"{method} changes more than one matrix at a time, so it cannot be measured "
                            "matrix by matrix; choose gptq or a scheme that rounds to nearest")
    return method


class _Work:
    def __init__(self, settings: Settings, methods: dict[str, Weights], emit: Emit,
                 cancelled: Callable[[], bool], journal: Journal, kl: bool) -> None:
        self.settings, self.methods, self.emit, self.cancelled = settings, methods, emit, cancelled
        self.journal, self.kl = journal, kl
        self.order: list[tuple[str, str]] = []
        self.calibrated: dict[str, Prepared] = {}
        self.opened: Opened | None = None

    def run(self, tokens: int, length: int, source: str) -> None:
        for name, method in self.methods.items():
            found = method.prepare(self.settings, self.emit, self.cancelled)
            if found is not None:
                self.calibrated[name] = found
        opened = self.opened = Opened(self.settings, dtype_for(self.settings))
        config = opened.model.config
        for module in (*opened.outside(), opened.model.get_output_embeddings()):
            opened.fill(module)
        layers = [opened.layer(i) for i in range(len(opened.layers))]
        self.order = [(f"{layer.name}.{path}", method) for layer in layers for path in layer.linears
                      for method in self.methods]
        where = opened.source
        tokenizer, _ = tokenizer_for(where.folder, config.vocab_size, where.random or where.gguf is not None,
                                     self.settings.model.trust_remote_code)
        length = min(length, int(getattr(config, "max_position_embeddings", length)))
        ids = text.draw(tokenizer, source, -(-tokens // length), length, 1, config.vocab_size).ids
        forward = _Forward(opened, layers, ids.split(max(1, BATCH_TOKENS // length)), self._check)
        for layer in layers:
            self._layer(forward, layer)
        self._tell("done")

    def _layer(self, forward: _Forward, layer: Layer) -> None:
        """All matrices of one layer, then the states move one layer on."""
        wanted = [p for p in layer.linears if any((f"{layer.name}.{p}", m) not in self.journal.done
                                                  for m in self.methods)]
        grams = forward.grams(layer, wanted) if wanted else {}
        for path in wanted:
            if path not in grams:
                raise ModelError(f"{layer.name}.{path} was never reached by the text, so its error cannot be "
                                 "measured; choose uniform weights")
            self._matrix(forward, layer, path, grams[path])
        forward.advance(layer)

    def _matrix(self, forward: _Forward, layer: Layer, path: str, gram: torch.Tensor) -> None:
        linear, name = layer.linears[path], f"{layer.name}.{path}"
        exact = linear.weight.detach().clone()
        signal = _power(exact, gram)
        for label, method in self.methods.items():
            if (name, label) in self.journal.done:
                continue
            self._tell(f"{name} as {label}")
            self._check()
            stored, nbytes = self._stored(method, label, name, exact)
            difference = stored - exact.float()
            kl, kl_se = self._alone(forward, layer.index, linear, stored, exact) if self.kl else (None, None)
            self.journal.add(Cell(
                name, layer.index, path, exact.shape[0], exact.shape[1], label, nbytes,
                float(difference.double().square().sum() / exact.double().square().sum().clamp_min(1e-300)),
                _power(difference, gram) / max(signal, 1e-300), kl, kl_se))

    @staticmethod
    def _alone(forward: _Forward, layer: int, linear: nn.Linear, stored: torch.Tensor, exact: torch.Tensor
               ) -> tuple[float, float | None]:
        """The divergence with ``stored`` in place of ``exact``, which is put back."""
        try:
            linear.weight.copy_(stored)
            return forward.divergence(layer)
        finally:
            linear.weight.copy_(exact)

    def _stored(self, method: Weights, label: str, name: str, weight: torch.Tensor
                ) -> tuple[torch.Tensor, int]:
        """The values that would be multiplied by, float32, and the bytes that hold them."""
        if label in self.calibrated:
            packed: Any = self.calibrated[label].pack(name, None, torch.device("cpu"),
                                                       (weight.shape[0], weight.shape[1]))
        else:
            packed = method.pack(weight, None)
        return packed.dequantize().float(), packed.nbytes

    def _tell(self, detail: str) -> None:
        self.emit(Progress(what="sensitivity", done=len(self.journal.done), total=len(self.order),
                           detail=detail))

    def _check(self) -> None:
        if self.cancelled():
            raise Cancelled("the error map was cancelled; what was measured is kept, and the same request "
                            "goes on from there")

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()
        for prepared in self.calibrated.values():
            prepared.close()


def _power(weight: torch.Tensor, gram: torch.Tensor) -> float:
    """|X W^T|^2 = sum (W G) * W with G = X^T X, float64."""
    w = weight.double()
    return float(((w @ gram) * w).sum().clamp_min(0.0))


class _Forward:
    """The whole model's forward, cut between the layers; the exact prediction is kept.

    ``batches``: token ids [n, length] each. ``check`` raises where the user has cancelled."""

    def __init__(self, opened: Opened, layers: list[Layer], batches: tuple[torch.Tensor, ...],
                 check: Callable[[], None]) -> None:
        self.opened, self.layers, self.check = opened, layers, check
        self.norm = self._last_norm()
        self.head = opened.model.get_output_embeddings()
        self.calls: list[list[Call]] = []
        self.states: list[torch.Tensor] = []
        for ids in batches:
            calls: list[Call] = []
            self.states += list(opened.entering(ids, calls))
            self.calls.append(calls)
        self.exact = [self._logprobs(h) for h in self._through(0)]

    def _last_norm(self) -> nn.Module:
        """What stands between the last layer and the head."""
        decoder: Any = self.opened._decoder()
        for name in ("norm", "final_layernorm", "ln_f", "final_layer_norm"):
            if isinstance(getattr(decoder, name, None), nn.Module):
                return getattr(decoder, name)
        raise ModelError(f"{self.opened.source.folder}: no last norm was found in this architecture, so the "
                         "error map cannot be measured")

    def _through(self, start: int) -> Iterator[torch.Tensor]:
        """Hidden states after the last layer, batch by batch, from the kept ones before ``start``."""
        for hidden, calls in zip(self.states, self.calls, strict=True):
            self.check()
            for layer in self.layers[start:]:
                hidden = run_layer(layer.module, hidden, calls[layer.index])
            yield hidden

    def _logprobs(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(hidden)).float().log_softmax(-1)

    def divergence(self, start: int) -> tuple[float, float | None]:
        """Mean KL(exact || as it is now) per token, nats, and its standard error."""
        found = []
        for exact, hidden in zip(self.exact, self._through(start), strict=True):
            now = self._logprobs(hidden)
            found.append((exact.exp() * (exact - now)).sum(-1, dtype=torch.float64).clamp_min(0).flatten())
        return mean_and_error(torch.cat(found).numpy())

    def grams(self, layer: Layer, names: list[str]) -> dict[str, torch.Tensor]:
        """X^T X of every named matrix's input, float64 [columns, columns]; shared inputs counted once."""
        found: dict[str, torch.Tensor] = {}
        last: list[tuple[torch.Tensor, torch.Tensor]] = []

        def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
                x = args[0]
                if not (last and last[0][0] is x):
                    flat = x.reshape(-1, x.shape[-1]).float()
                    last[:] = [(x, (flat.T @ flat).double())]
                found[name] = found[name] + last[0][1] if name in found else last[0][1]
            return enter

        hooks = [layer.linears[n].register_forward_pre_hook(watch(n)) for n in names]
        try:
            for hidden, calls in zip(self.states, self.calls, strict=True):
                self.check()
                run_layer(layer.module, hidden, calls[layer.index])
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def advance(self, layer: Layer) -> None:
        """The kept states move behind ``layer``."""
        self.states = [run_layer(layer.module, hidden, calls[layer.index])
                       for hidden, calls in zip(self.states, self.calls, strict=True)]
