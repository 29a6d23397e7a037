"""A checkpoint opened one decoder layer at a time: filled, used, emptied again.

The module tree has no memory; what runs is transformers' own layer, called as the decoder calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from workbench.errors import ModelError
from workbench.runtime.guard import layers_of
from workbench.runtime.loading import is_matrix, return_freed, skeleton, tensors_of
from workbench.runtime.sources import Source, resolve

if TYPE_CHECKING:
    from workbench.settings import Settings


@dataclass
class Layer:
    """A decoder layer in memory. ``name``: its path in the model; ``linears``: path inside it -> module.

    GPT-2's transposed matrices appear as ordinary linear layers. ``changed``: parameters beside the
    matrices that no longer are what the checkpoint has."""

    index: int
    name: str
    module: nn.Module
    linears: dict[str, nn.Linear]
    changed: set[str] = field(default_factory=set)


@dataclass
class Call:
    """How the decoder calls one layer, beside the hidden states."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class Change(Protocol):
    """Something done to everything that is read (a rotation)."""

    def layer(self, layer: Layer) -> None:
        """In place, after a layer is filled."""

    def outside(self, opened: Opened) -> None:
        """In place, after what comes before the first layer is filled."""


class Opened:
    """The model of ``settings``, with one layer in memory at most. Close it.

    ``dtype``: of the layers while they run. Raises ModelError (nothing usable there)."""

    def __init__(self, settings: Settings, dtype: torch.dtype = torch.float32) -> None:
        self.source: Source = resolve(settings.model)
        self.dtype = dtype
        self.model = skeleton(self.source, dtype, settings.model.trust_remote_code).eval()
        self.layers = layers_of(self.model)
        if not self.layers:
            raise ModelError(f"{self.source.folder}: no list of decoder layers was found in this "
                             "architecture, so it cannot be calibrated layer by layer")
        self.names = {id(m): name for name, m in self.model.named_modules()}
        self._refuse_stacks()
        self._tensors = tensors_of(self.model, settings, self.source)
        self._meta: list[tuple[nn.Module, str, nn.Parameter]] = []
        self._swapped: list[tuple[nn.Module, str, nn.Module]] = []
        self._given: dict[int, nn.Parameter] = {}
        self.change: Change | None = None

    @property
    def swapped(self) -> bool:
        """Whether the layer in memory keeps its matrices transposed (they were replaced)."""
        return bool(self._swapped)

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    def _refuse_stacks(self) -> None:
        for layer in self.layers:
            for name, param in layer.named_parameters():
                if param.ndim > 2:
                    raise ModelError(f"{self.names[id(layer)]}.{name} is a stack of matrices (experts), "
                                     "which calibration does not support; choose int4 or int8 weights")

    # -- filling and emptying ---------------------------------------------------------------

    def layer(self, index: int) -> Layer:
        """Read layer ``index``. Raises ModelError where a weight is not finite."""
        module = self.layers[index]
        name = self.names[id(module)]
        self.fill(module)
        linears = {}
        for path, child in list(module.named_modules()):
            if is_matrix(child):
                linears[path] = self._linear(module, path, child)
        for path, param in module.named_parameters():
            if not torch.isfinite(param).all():
                raise ModelError(f"{name}.{path} holds NaN or infinite values; the checkpoint is damaged, "
                                 "so copy or download it again")
        layer = Layer(index, name, module, linears)
        if self.change is not None:
            with torch.no_grad():
                self.change.layer(layer)
        return layer

    def fill(self, module: nn.Module) -> None:
        """Give every parameter of ``module`` its values, in the compute dtype."""
        with torch.no_grad():
            for child in module.modules():
                for key, param in list(child._parameters.items()):
                    if param is None or not param.is_meta:
                        continue
                    if id(param) not in self._given:
                        name = self.names[id(child)]
                        value = self._tensors.get(name, child, key, param)
                        self._given[id(param)] = nn.Parameter(value.to(self.dtype), requires_grad=False)
                    self._meta.append((child, key, param))
                    child._parameters[key] = self._given[id(param)]

    def empty(self) -> None:
        """Forget everything that was filled."""
        for parent, key, child in reversed(self._swapped):
            setattr(parent, key, child)
        for module, key, param in self._meta:
            module._parameters[key] = param
        self._meta.clear()
        self._swapped.clear()
        self._given.clear()
        return_freed(torch.device("cpu"))

    def _linear(self, module: nn.Module, path: str, child: nn.Module) -> nn.Linear:
        if isinstance(child, nn.Linear):
            return child
        weight, bias = child._parameters["weight"], child._parameters.get("bias")
        assert weight is not None
        own = nn.Linear(weight.shape[0], weight.shape[1], bias is not None, device="meta")
        own.weight = nn.Parameter(weight.t().contiguous(), requires_grad=False)
        if bias is not None:
            own.bias = bias
        parent_path, _, key = path.rpartition(".")
        parent = module.get_submodule(parent_path)
        self._swapped.append((parent, key, child))
        setattr(parent, key, own)
        return own

    def close(self) -> None:
        self.empty()
        self._tensors.close()

    # -- the way in -------------------------------------------------------------------------

    def calls(self, ids: torch.Tensor) -> list[Call]:
        """How the decoder calls each layer for a batch of this shape (masks, positions)."""
        found: list[Call] = []
        for _ in self.entering(ids, found):
            pass
        return found

    def entering(self, ids: torch.Tensor, calls: list[Call] | None = None) -> Iterator[torch.Tensor]:
        """The hidden states before the first layer, one [batch, length, width]. Needs the embedding
        (``fill`` what :meth:`outside` names first)."""
        holder = self._holder()
        recorders = [_Recorder(layer) for layer in self.layers]
        decoder = self._decoder()
        with torch.no_grad():
            try:
                for i, recorder in enumerate(recorders):
                    holder[i] = recorder
                decoder(input_ids=ids, use_cache=False)
            finally:
                for i, layer in enumerate(self.layers):
                    holder[i] = layer
        if calls is not None:
            calls.extend(r.call for r in recorders)
        assert recorders[0].hidden is not None
        yield recorders[0].hidden

    def outside(self) -> list[nn.Module]:
        """The decoder's modules beside its layers: embeddings, rotary tables, the last norm."""
        inner = {id(m) for layer in self.layers for m in layer.modules()}
        return [m for m in self._decoder().modules() if id(m) not in inner and not list(m.children())]

    def _decoder(self) -> Any:
        return self.model.get_decoder() if hasattr(self.model, "get_decoder") else self.model.base_model

    def _holder(self) -> nn.ModuleList:
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) and module[0] is self.layers[0]:
                return module
        raise ModelError(f"{self.source.folder}: the decoder layers are not in one list; this architecture "
                         "cannot be calibrated layer by layer")


class _Recorder(nn.Module):
    """Stands where a layer stands: notes how it is called and passes the states on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._of = [layer]  # in a list: not a submodule
        self.hidden: torch.Tensor | None = None
        self.call = Call()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_of"][0], name)  # attention_type and the like

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.hidden, self.call = hidden, Call(args, kwargs)
        return hidden


def run_layer(module: nn.Module, hidden: torch.Tensor, call: Call) -> torch.Tensor:
    """One decoder layer on [batch, length, width]."""
    out = module(hidden, *call.args, **call.kwargs)
    return out[0] if isinstance(out, tuple) else out
