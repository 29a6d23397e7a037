"""Bringing layers to the compute device just in time: a ring of slots, a loader thread, hooks.

Every forward visits the layers in the same order, so the loads are numbered: ticket t is the layer
``order[t % n]`` and goes to slot ``t % window``. The loader may load ticket t when

    t <= position + prefetch        (not too far ahead)
    t - window < position           (the slot's last tenant has been computed)

where ``position`` is the ticket that is computed now or next. So at most ``window`` layers are ever
held, by construction, and the last layers of one token overlap with the first ones of the next.
Superpipeline (arXiv:2410.08791) without its write-back, ZeRO-Inference (SC'22), TPI-LLM's window
(arXiv:2410.00531). The steady state is max(compute, transfer) per layer once window >= 2.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from workbench.errors import Cancelled, EngineError
from workbench.events import Transfer
from workbench.runtime.parking import FileStore, HostStore, Parking, Segment, aligned_buffer

_KEPT_TRANSFERS = 20_000  # more than any view shows between two drains
_POLL_S = 0.05  # how often a waiting computation looks whether it was cancelled


@dataclass(eq=False)
class Slot:
    """One layer's room on the compute device. ``ticket`` -1: nothing valid in it."""

    buffer: torch.Tensor
    index: int
    ticket: int = -1
    layer: int = -1
    start_s: float = 0.0
    end_s: float = 0.0
    moved: bool = False  # the last load really moved bytes (not already here)


class Streamer:
    """Feeds the parked ones of ``model``'s ``layers`` from ``parking``'s store.

    ``overlap`` False: no thread; a missing layer and the next ``prefetch`` ones are brought while
    the computation waits. ``cancelled`` may be set by the runtime; a wait then ends with Cancelled."""

    def __init__(self, model: nn.Module, layers: list[nn.Module], parking: Parking,
                 device: torch.device, *, window: int, prefetch: int, overlap: bool) -> None:
        self.store, self.device = parking.store, device
        self.order = sorted(self.store.segments)
        self.window = max(1, min(window, len(self.order)))
        self.prefetch = min(prefetch, self.window - 1)
        self.overlap = overlap
        self.cancelled: Callable[[], bool] | None = None
        self.slots = [Slot(aligned_buffer(self.store.slot_bytes, device), i)
                      for i in range(self.window if self.order else 0)]
        self._mover = make_mover(self.store, device)
        self._position = 0
        self._next = 0
        self._error: EngineError | None = None
        self._stopped = False
        self._change = threading.Condition()
        self._transfers: deque[dict[str, Any]] = deque(maxlen=_KEPT_TRANSFERS)
        self._bindings: dict[tuple[int, int], list[torch.Tensor]] = {}
        self._resident_bytes = _bytes(model)
        self._handles = [h for i in self.order for h in (
            layers[i].register_forward_pre_hook(partial(self._before, i), prepend=True),
            layers[i].register_forward_hook(partial(self._after, i), always_call=True))]
        self._thread: threading.Thread | None = None
        if overlap and self.order:
            self._thread = threading.Thread(target=self._run, name="layer-streamer", daemon=True)
            self._thread.start()

    # -- the computation's side --------------------------------------------------------------

    def _before(self, layer: int, *_: Any) -> None:
        """Wait until ``layer`` is here and point its modules at the slot."""
        asked = time.perf_counter()
        slot = self._acquire(layer)
        waited = time.perf_counter() - asked
        self._mover.wait(slot)
        self._segment(layer).point(self._tensors(layer, slot.index))
        if slot.moved:
            slot.moved = False
            self._transfers.append({
                "src": self.store.tier, "dst": "gpu" if self.device.type == "cuda" else "ram",
                "bytes": self._segment(layer).span, "start_s": slot.start_s, "end_s": slot.end_s,
                "layer": layer, "waited_s": waited})

    def _after(self, layer: int, *_: Any) -> None:
        """The layer is computed (or failed): its slot may be overwritten."""
        slot = self.slots[self._position % self.window]
        if slot.layer != layer:
            return  # the wait itself failed, nothing was pointed anywhere
        self._segment(layer).empty()
        self._mover.release(slot)
        with self._change:
            self._position += 1
            self._change.notify_all()

    def _acquire(self, layer: int) -> Slot:
        with self._change:
            self._refuse_stopped()
            ticket = self._position
            while self.order[ticket % len(self.order)] != layer:
                ticket += 1  # a forward was cut short, or layers were skipped
            self._position, self._next = ticket, max(self._next, ticket)
            self._error = None  # a failed fetch is tried once more by whoever needs it
            slot = self.slots[ticket % self.window]
            self._change.notify_all()
        if not self.overlap and slot.ticket != ticket:
            self._load_ahead()
        with self._change:
            while slot.ticket != ticket:
                self._refuse_stopped()
                if self._error is not None:
                    raise self._error
                if self.cancelled is not None and self.cancelled():
                    raise Cancelled("cancelled while a layer was on its way")
                self._change.wait(_POLL_S)
        return slot

    def _refuse_stopped(self) -> None:
        if self._stopped:
            raise EngineError("the layer streamer was stopped; load the model again")

    def _segment(self, layer: int) -> Segment:
        return self.store.segments[layer]

    def _tensors(self, layer: int, slot: int) -> list[torch.Tensor]:
        """Views of the slot in the layer's shapes, made once per pair."""
        key = (layer, slot)
        if key not in self._bindings:
            with torch.inference_mode(False):
                self._bindings[key] = [
                    nn.Parameter(view, requires_grad=False) if isinstance(p.table[p.name], nn.Parameter)
                    else view for p in self._segment(layer).pieces
                    for view in (p.view(self.slots[slot].buffer),)]
        return self._bindings[key]

    # -- the loader's side -------------------------------------------------------------------

    def _may_load(self) -> bool:
        return (self._error is None and self._next <= self._position + self.prefetch
                and self._next - self.window < self._position)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._stopped and not self._may_load():
                    self._change.wait()
                if self._stopped:
                    return
                ticket = self._next
            self._load(ticket)

    def _load_ahead(self) -> None:
        """Without overlap: this layer and the next ones that have room, one after the other."""
        while self._may_load():
            self._load(self._next)

    def _load(self, ticket: int) -> None:
        slot, layer = self.slots[ticket % self.window], self.order[ticket % len(self.order)]
        start, error = time.perf_counter(), None
        here = slot.layer == layer and slot.ticket >= 0
        if not here:
            slot.ticket = slot.layer = -1
            try:
                self._mover.load(layer, slot, lambda: self._stopped)
            except EngineError as caught:
                error = caught
            except Exception as caught:
                error = EngineError(f"bringing layer {layer} to {self.device} failed: {caught}")
        with self._change:
            if error is not None:
                self._error = error
            elif not self._stopped:
                slot.ticket, slot.layer = ticket, layer
                if not here:
                    slot.moved, slot.start_s, slot.end_s = True, start, time.perf_counter()
                self._next = max(self._next, ticket + 1)
            self._change.notify_all()

    # -- looking and ending ------------------------------------------------------------------

    def bytes_by_tier(self) -> dict[str, int]:
        """Weight bytes where they are: what stays on the compute device and the slots; the store."""
        compute = "gpu" if self.device.type == "cuda" else "ram"
        held = {compute: self._resident_bytes + sum(s.buffer.numel() for s in self.slots)}
        held[self.store.tier] = held.get(self.store.tier, 0) + self.store.nbytes
        return held

    def drain_transfers(self, clock: Callable[[], float] | None = None) -> list[Transfer]:
        """What was moved and used since the last call. ``clock``: the run's; transfers that ended
        before the run began are dropped. Without it times are the process's ``perf_counter``."""
        shift = clock() - time.perf_counter() if clock is not None else 0.0
        found = []
        while self._transfers:
            row = self._transfers.popleft()
            if clock is not None and row["end_s"] + shift < 0:
                continue
            row = {**row, "start_s": max(0.0, row["start_s"] + shift), "end_s": row["end_s"] + shift}
            found.append(Transfer(t_s=row["end_s"], **row))
        return found

    def check_integrity(self) -> None:
        """Raises AssertionError where an invariant is broken (for tests)."""
        assert len(self.slots) == (self.window if self.order else 0)
        assert self.prefetch < self.window
        assert self._next <= self._position + self.window
        tickets = [s.ticket for s in self.slots if s.ticket >= 0]
        assert len(tickets) == len(set(tickets))

    def stop(self) -> None:
        """End the thread, remove the hooks, free the slots and the store. Safe to call twice."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._bindings.clear()
        self.slots.clear()
        self.store.close()


def _bytes(model: nn.Module) -> int:
    """Bytes of the tensors that are in memory, shared ones once."""
    held = {t.data_ptr(): t.numel() * t.element_size()
            for t in (*model.parameters(), *model.buffers()) if not t.is_meta}
    return sum(held.values())


# -- movers --------------------------------------------------------------------------------------


class FileToHost:
    """Reads straight into the slot."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def load(self, layer: int, slot: Slot, stopped: Callable[[], bool]) -> None:
        self._store.read(layer, slot.buffer.numpy().data, stopped)

    def wait(self, slot: Slot) -> None:
        """The bytes are there when ``load`` returns."""

    def release(self, slot: Slot) -> None:
        """Computation on the host is finished when the hook runs."""


class ToCuda:
    """Copies on a stream of its own; the compute stream waits by event, never the host.

    From pinned memory directly, or from a file through one pinned staging buffer."""

    def __init__(self, store: FileStore | HostStore, device: torch.device) -> None:
        self._store, self._device = store, device
        self._stream = torch.cuda.Stream(device)
        self._ready: dict[int, torch.cuda.Event] = {}
        self._free: dict[int, torch.cuda.Event] = {}
        self._staging = None if isinstance(store, HostStore) else aligned_buffer(
            store.slot_bytes, torch.device("cpu"), pinned=True)

    def load(self, layer: int, slot: Slot, stopped: Callable[[], bool]) -> None:
        span = self._store.segments[layer].span
        if isinstance(self._store, HostStore):
            host = self._store.buffers[layer]
        else:
            assert self._staging is not None
            self._stream.synchronize()  # the staging buffer's last copy
            self._store.read(layer, self._staging.numpy().data, stopped)
            host = self._staging
        with torch.cuda.stream(self._stream):
            free = self._free.get(id(slot))
            if free is not None:
                self._stream.wait_event(free)
            slot.buffer[:span].copy_(host[:span], non_blocking=True)
            self._ready[id(slot)] = self._stream.record_event()
        self._ready[id(slot)].synchronize()  # so that the transfer's end is its end

    def wait(self, slot: Slot) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._ready[id(slot)])

    def release(self, slot: Slot) -> None:
        self._free[id(slot)] = torch.cuda.current_stream(self._device).record_event()


def make_mover(store: FileStore | HostStore, device: torch.device) -> FileToHost | ToCuda:
    """By compute device and store."""
    if device.type == "cuda":
        return ToCuda(store, device)
    assert isinstance(store, FileStore)
    return FileToHost(store)
