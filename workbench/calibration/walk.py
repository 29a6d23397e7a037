"""The calibration service: text through a checkpoint layer by layer, statistics to one consumer.

A layer is read, its inputs are observed in passes, the consumer may change its weights, and what leaves
the changed layer enters the next one (as GPTQ does; Frantar et al. 2022, section 4). In memory: one
layer, the statistics of one pass and one batch of states; everything else waits on disk. What a layer
gave is written whole before the next one starts, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from workbench.calibration.layers import Call, Layer, Opened, run_layer
from workbench.calibration.states import States, Writing
from workbench.calibration.statistics import Statistics
from workbench.calibration.text import Samples
from workbench.errors import Cancelled, ModelError, StoreError
from workbench.events import Event, Progress
from workbench.runtime.loading import return_freed

if TYPE_CHECKING:
    from workbench.settings import Settings

Emit = Callable[[Event], None]
#: Tokens that go through a layer at once.
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Pass:
    """One run of all text through the layer, watching the inputs of ``names``. ``gram``: second moments
    too."""

    label: str
    names: tuple[str, ...]
    gram: bool = True


class Consumer(Protocol):
    """Who wants the statistics. All methods see float weights that they may change in place."""

    def passes(self, groups: list[list[str]]) -> list[Pass]:
        """``groups``: linear layers that share an input, in the order in which they are reached."""

    def observed(self, layer: Layer, done: Pass, statistics: dict[str, Statistics]) -> None:
        """A pass is over; names that share an input share their statistics."""

    def keep(self, layer: Layer) -> dict[str, torch.Tensor]:
        """What is written of this layer, after its last pass; names are relative to the layer."""


def walk(settings: Settings, samples: Samples, consumer: Consumer, folder: Path, key: dict[str, Any],
         emit: Emit, cancelled: Callable[[], bool] | None = None, dtype: torch.dtype = torch.float32,
         prepare: Callable[[Opened], None] | None = None) -> None:
    """Fill ``folder`` with ``layer-0000.safetensors`` ... , one per decoder layer, and ``done``.

    ``key`` says what is made; a folder of another key is refused, one of the same key is continued.
    ``prepare`` may change what the opened model reads (a rotation). Emits ``Progress`` ("calibrate").
    Raises ModelError, SettingsError, StoreError, Cancelled (finished layers are kept)."""
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, key)
    opened = Opened(settings, dtype)
    try:
        with torch.no_grad():
            if prepare is not None:
                prepare(opened)
            _Walk(opened, samples, consumer, folder, emit, cancelled or (lambda: False)).run()
    finally:
        opened.close()
    for path in folder.glob("states-*"):
        path.unlink()
    (folder / "done").touch()


def layer_file(folder: Path, index: int) -> Path:
    return folder / f"layer-{index:04d}.safetensors"


def _claim(folder: Path, key: dict[str, Any]) -> None:
    path, text = folder / "key.json", json.dumps(key, indent=1, sort_keys=True)
    if path.is_file() and path.read_text("utf-8") != text:
        raise StoreError(f"{folder} holds an unfinished calibration with other settings; choose another "
                         "folder, or delete it")
    if not path.is_file():
        aside = path.with_suffix(".part")
        aside.write_text(text, "utf-8")
        aside.replace(path)


class _Walk:
    def __init__(self, opened: Opened, samples: Samples, consumer: Consumer, folder: Path, emit: Emit,
                 cancelled: Callable[[], bool]) -> None:
        self.opened, self.samples, self.consumer = opened, samples, consumer
        self.folder, self.emit, self.cancelled = folder, emit, cancelled
        count, length = samples.ids.shape
        self.states = States(folder, (count, length, opened.width), opened.dtype)
        self.rows = max(1, BATCH_TOKENS // length)
        self.calls: dict[int, list[Call]] = {}

    def run(self) -> None:
        total = len(self.opened.layers)
        start = self._enter()
        for index in range(start, total):
            layer = self.opened.layer(index)
            self._passes(layer)
            self._save(layer)
            if index + 1 < total:
                self._leave(layer)
            self.opened.empty()
            self.states.drop(index)
        self._tell(total, "done")

    # -- where to start ---------------------------------------------------------------------

    def _enter(self) -> int:
        """Index of the first layer that is not done, its input states in place."""
        done = 0
        while layer_file(self.folder, done).is_file():
            done += 1
        if done == len(self.opened.layers):
            return done
        start = max((i for i in range(done + 1) if i and self.states.there(i)), default=0)
        for module in self.opened.outside():
            self.opened.fill(module)
        if self.opened.change is not None:
            self.opened.change.outside(self.opened)
        shapes = {len(b) for b in self._batches()}
        for rows in shapes:
            self.calls[rows] = self.opened.calls(self.samples.ids[:rows])
        if start == 0:
            self._write(0, (h for b in self._batches() for h in self.opened.entering(b)))
        self.opened.empty()
        return start

    def _batches(self) -> list[torch.Tensor]:
        return list(self.samples.ids.split(self.rows))

    def _write(self, index: int, hidden: Iterator[torch.Tensor]) -> None:
        try:
            writing = Writing(self.states, index)
            try:
                for part in hidden:
                    self._check()
                    writing.add(part)
                writing.done()
            finally:
                writing.close()
        except OSError as error:
            raise StoreError(f"the calibration cannot write to {self.folder} ({error.strerror or error}); "
                             "free some space, or set WORKBENCH_HOME to another disk") from None

    # -- one layer --------------------------------------------------------------------------

    def _passes(self, layer: Layer) -> None:
        """The first batch shows which linear layers share an input; then the consumer's passes."""
        groups = self._groups(layer)
        passes = self.consumer.passes(groups)
        for number, step in enumerate(passes):
            self._tell(layer.index + number / (len(passes) + 1), f"layer {layer.index}: {step.label}")
            watch = _Watch(layer, step)
            try:
                for hidden, call in self._inputs(layer.index):
                    with contextlib.suppress(_Enough):
                        run_layer(layer.module, hidden, call)
                    watch.next_batch()
            finally:
                watch.close()
            self._refuse(layer, watch.found)
            return_freed(torch.device("cpu"))  # the activations' heap, before the large matrices
            self.consumer.observed(layer, step, watch.found)

    def _groups(self, layer: Layer) -> list[list[str]]:
        watch = _Watch(layer, Pass("", tuple(layer.linears), gram=False), count=False)
        try:
            hidden, call = next(self._inputs(layer.index))
            run_layer(layer.module, hidden, call)
        finally:
            watch.close()
        groups: dict[int, list[str]] = {}
        for name, statistics in watch.found.items():
            groups.setdefault(id(statistics), []).append(name)
        return list(groups.values())

    def _inputs(self, index: int) -> Iterator[tuple[torch.Tensor, Call]]:
        for start in range(0, len(self.samples.ids), self.rows):
            self._check()
            hidden = self.states.read(index, start, self.rows)
            yield hidden, self.calls[len(hidden)][index]

    def _refuse(self, layer: Layer, found: dict[str, Statistics]) -> None:
        for name, statistics in found.items():
            if not statistics.finite():
                raise ModelError(f"the inputs of {layer.name}.{name} are not finite on the calibration "
                                 "text; use other text, or check the checkpoint")

    def _save(self, layer: Layer) -> None:
        from safetensors.torch import save_file

        self._check()
        path = layer_file(self.folder, layer.index)
        aside = path.with_suffix(".part")
        try:
            save_file({f"{layer.name}.{k}": v.contiguous()
                       for k, v in self.consumer.keep(layer).items()}, aside)
            aside.replace(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error.strerror or error}); free some space, or set "
                             "WORKBENCH_HOME to another disk") from None

    def _leave(self, layer: Layer) -> None:
        self._tell(layer.index + 0.9, f"layer {layer.index}: states")
        self._write(layer.index + 1, (run_layer(layer.module, hidden, call)
                                      for hidden, call in self._inputs(layer.index)))

    def _check(self) -> None:
        if self.cancelled():
            raise Cancelled("the calibration was cancelled; finished layers are kept, and the next one with "
                            "the same settings goes on from there")

    def _tell(self, done: float, detail: str) -> None:
        self.emit(Progress(what="calibrate", done=done, total=len(self.opened.layers), detail=detail))


class _Enough(Exception):
    """Everything that a pass watches has been seen in this batch."""


class _Watch:
    """Collects what enters ``step.names``; stops the forward when all have been entered.

    ``count`` False: only who shares an input with whom."""

    def __init__(self, layer: Layer, step: Pass, count: bool = True) -> None:
        self.found: dict[str, Statistics] = {}
        self._step, self._count = step, count
        self._seen: set[str] = set()
        self._last: tuple[torch.Tensor, Statistics] | None = None
        self._hooks = [layer.linears[name].register_forward_pre_hook(self._hook(name))
                       for name in step.names]

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            if self._last is not None and self._last[0] is x:
                self.found[name] = self._last[1]
            else:
                statistics = self.found.get(name) or Statistics(x.shape[-1], self._step.gram)
                if self._count:
                    statistics.add(x)
                self.found[name], self._last = statistics, (x, statistics)
            self._seen.add(name)
            if self._count and len(self._seen) == len(self._hooks):
                raise _Enough
        return enter

    def next_batch(self) -> None:
        self._seen.clear()
        self._last = None

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
