"""One profiled module from the first forward to the finished run in the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from workbench.errors import Cancelled, SettingsError, WorkbenchError
from workbench.events import (
    Effective,
    Event,
    Kernel,
    KernelWindow,
    Memory,
    Note,
    Phase,
    Progress,
    RunEnded,
    RunStarted,
    Slice,
)
from workbench.profiling import inputs as taking
from workbench.profiling.ceilings import Ceilings
from workbench.profiling.costs import Costs, count
from workbench.profiling.paths import Paths
from workbench.profiling.window import PYTHON, Seen, look
from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.store import Run, Store

#: Timeline points of live memory that are kept.
_POINTS = 200


@dataclass(frozen=True)
class Plan:
    """What to do, checked."""

    steps: int
    warmup: int
    windows: int
    name: str
    grad: bool
    power: bool

    def __post_init__(self) -> None:
        for name, value, least, most in (("steps", self.steps, 1, 100_000),
                                         ("warmup", self.warmup, 0, 10_000),
                                         ("windows", self.windows, 0, 200)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise SettingsError(f"{name}={value!r} must be a whole number from {least} to {most}")


def record(module: Any, inputs: Any, plan: Plan, baseline: Run | str | None, store: Store | None,
           progress: Callable[[str, float], None] | None, cancelled: Callable[[], bool]) -> Run:
    """See :func:`workbench.profiling.profile`."""
    import torch

    from workbench.store import Store

    taking.check_module(module)
    make = taking.maker(inputs)
    store = store or Store()
    against = store.open(baseline) if isinstance(baseline, str) else baseline
    with torch.set_grad_enabled(plan.grad):
        call = make()
        device = taking.device_of(module, call)
        taking.try_once(module, call)
        settings = _settings(module, device, plan)
        writer = store.record(settings, prompt=_description(module, call),
                              label=plan.name or type(module).__name__)
        job = Job(module, make, call, device, plan, settings, writer, progress, cancelled)
        status, error = "done", ""
        try:
            job.run(against)
        except (Cancelled, KeyboardInterrupt):
            status, error = "cancelled", "cancelled"
            raise Cancelled("cancelled; the forwards so far are kept in the run") from None
        except Exception as failed:
            status = "failed"
            error = str(failed) if isinstance(failed, WorkbenchError) else repr(failed)
            raise
        finally:
            job.emit(RunEnded(status=status, reason=error))
            writer.finish(status=status, error=error)
    return writer.run


def _settings(module: Any, device: Any, plan: Plan) -> Settings:
    """What of a run's settings means something here: device, threads, seed of nothing else."""
    import torch

    return Settings().with_({
        "model.source": f"module:{type(module).__name__}", "compute.device": str(device),
        "compute.threads": torch.get_num_threads(), "telemetry.power": plan.power,
        "telemetry.preset": "deep" if plan.windows else "off"})


def _description(module: Any, call: taking.Call) -> str:
    parameters = sum(p.numel() for p in module.parameters())
    return f"{type(module).__name__} ({parameters:,} parameters) on {call}"


class Job:
    """The run's parts; all on the caller's thread but the power poller and the neighbours' sampler."""

    def __init__(self, module: Any, make: Callable[[], taking.Call], call: taking.Call, device: Any,
                 plan: Plan, settings: Settings, writer: Any,
                 progress: Callable[[str, float], None] | None, cancelled: Callable[[], bool]) -> None:
        self.module, self.make, self.call, self.device = module, make, call, device
        self.plan, self.settings, self.writer = plan, settings, writer
        self.progress, self.cancelled = progress, cancelled
        self.paths = Paths(module)
        self.cuda = device.type == "cuda"
        self.ceilings = Ceilings.here(self.cuda)
        self._zero = time.perf_counter()

    def clock(self) -> float:
        return time.perf_counter() - self._zero

    def emit(self, event: Event) -> None:
        self.writer.add([msgspec.structs.replace(event, run=self.writer.run.id,
                                                 t_s=event.t_s or self.clock())])

    def run(self, baseline: Run | None) -> None:
        self.writer.run.begin()
        self.emit(RunStarted(prompt_tokens=0, sequences=self.call.items, started_unix_s=time.time()))
        self._describe(baseline)
        self._tell("counting", 0.0)
        costs = count(self.module, self.call, self.paths, self.clock)
        self._memory(costs)
        for _ in range(self.plan.warmup):
            self._check()
            self._forward(self.make())
        self._timed()
        for index in range(self.plan.windows):
            self._check()
            self._tell("profiling", index / self.plan.windows)
            self._window(index + 1, costs)
        self._tell("done", 1.0)

    # -- timed forwards ---------------------------------------------------------------------

    def _timed(self) -> None:
        """Forwards with nothing else going on but the slow meters, events sent after the last."""
        from workbench.telemetry.monitor import power_of
        from workbench.telemetry.neighbours import Neighbours

        power = power_of(self.settings, self.emit, self.clock) if self.plan.power else None
        neighbours = Neighbours(self.emit, self.clock)
        found: list[Phase] = []
        neighbours.start()
        if power is not None:
            power.start()
        try:
            for step in range(self.plan.steps):
                self._check()
                call = self.make()
                start = self.clock()
                self._forward(call)
                end = self.clock()
                found.append(Phase(t_s=end, phase="forward", start_s=start, end_s=end, step=step,
                                   rows=call.items))
                if step % 8 == 0:
                    self._tell("timing", step / self.plan.steps)
        finally:
            if power is not None:
                power.stop()
            neighbours.stop()
            for event in found:
                self.emit(event)

    def _forward(self, call: taking.Call) -> None:
        import torch

        self.module(*call.args, **call.kwargs)
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def _check(self) -> None:
        if self.cancelled():
            raise Cancelled("cancelled")

    def _tell(self, what: str, share: float) -> None:
        self.emit(Progress(what=what, done=share, total=1.0))
        if self.progress is not None:
            self.progress(what, share)

    # -- windows ----------------------------------------------------------------------------

    def _window(self, number: int, costs: Costs) -> None:
        call = self.make()
        marks: list[float] = []
        seen = look(self.module, call, self.paths, set(costs.ops), self.cuda,
                    started=lambda: marks.append(self.clock()))
        start, now = marks[0], self.clock()
        for key, row in seen.rows.items():
            self.emit(self._kernel(number, key, row, costs, now))
        for name, start_s, duration_s, track, index in seen.slices:
            self.emit(Slice(t_s=now, window=number, name=self._slice_name(name),
                            start_s=start + start_s, duration_s=duration_s, track=track,
                            phase="forward", layer=self.paths.layer(index) if index >= 0 else -1))
        self.emit(KernelWindow(
            t_s=now, window=number, start_s=start, end_s=start + seen.whole_s, preset="deep", steps=1,
            overhead_s=seen.overhead_s, device_events=seen.device_events,
            host_events=seen.host_events, reason=self._why_none(seen)))

    def _why_none(self, seen: Seen) -> str:
        if self.cuda and not seen.device_events:
            return ("no GPU events: another profiler may hold the GPU's counters (close Nsight, DCGM "
                    "or a second capture)")
        return ""

    def _kernel(self, number: int, key: tuple[int, str, str, str], row: Any, costs: Costs, now: float
                ) -> Kernel:
        from workbench.telemetry.classify import kernel_class

        index, name, kind, device = key
        cost = costs.ops.get((index, name)) if kind == "op" else None
        # A call with other shapes than the counted one would have another cost.
        if cost is not None and cost.calls != row.calls:
            cost = None
        floor = self.ceilings.floor_s(cost) if cost is not None else None
        return Kernel(
            t_s=now, window=number, phase="forward", layer=self.paths.layer(index) if index >= 0 else -1,
            name=name, kind=kind, cls="other" if name == PYTHON else kernel_class(name), device=device,
            calls=row.calls, total_s=row.total_s, mean_s=row.total_s / max(1, row.calls),
            min_s=row.min_s, max_s=row.max_s, bytes=cost.bytes if cost else None,
            flops=cost.flops if cost else None, floor_s=floor, module=self._path(index))

    def _path(self, index: int) -> str:
        """``blocks.0.mlp (Linear)``; the module itself is ``(ViT)``."""
        if index < 0:
            return ""
        return f"{self.paths.names[index]} ({self.paths.classes[index]})".strip()

    def _slice_name(self, name: str) -> str:
        from workbench.profiling.paths import MARK

        return self._path(int(name[len(MARK):])) if name.startswith(MARK) else name

    # -- what it is, what it holds ----------------------------------------------------------

    def _describe(self, baseline: Run | None) -> None:
        import torch

        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in self.module.parameters()})
        said = {"model.source": type(self.module).__name__, "compute.device": str(self.device),
                "compute.threads": str(torch.get_num_threads())}
        for path, value in said.items():
            self.emit(Effective(path=path, requested=value, effective=value))
        self.emit(Note(text=f"{_description(self.module, self.call)}; weights in "
                            f"{', '.join(dtypes) or 'none'}"))
        if self.module.training:
            self.emit(Note(level="warning", text="the module is in training mode (dropout and batch "
                           "statistics are on); module.eval() is how it would be served"))
        if self.ceilings.reason:
            self.emit(Note(level="warning", text=f"no floors: {self.ceilings.reason}"))
        if baseline is not None:
            self.emit(Note(text=f"baseline: {baseline.id} {baseline.label}"))

    def _memory(self, costs: Costs) -> None:
        """The activations' rise and fall along one forward, beside what the process holds."""
        import torch

        from workbench.runtime.memory import module_bytes, resident_bytes

        held = module_bytes(self.module)
        tier = "gpu" if self.cuda else "ram"
        step = max(1, -(-len(costs.timeline) // _POINTS))
        peak = Memory(tier=tier, total_bytes=0, activations_bytes=costs.peak_bytes,
                      t_s=max(costs.timeline, key=lambda p: p[2])[0] if costs.timeline else 0.0)
        points = [Memory(tier=tier, total_bytes=0, activations_bytes=live, t_s=at)
                  for at, _, live in costs.timeline[::step]]
        total = torch.cuda.memory_allocated(self.device) if self.cuda else resident_bytes()
        source = "CUDA allocator" if self.cuda else "resident set of this process"
        for m in sorted([*points, peak], key=lambda m: m.t_s):
            self.emit(msgspec.structs.replace(
                m, total_bytes=max(total, held.get(tier, 0) + m.activations_bytes),
                weights_bytes=held.get(tier, 0),
                source=f"{source}; activations by storage, in one forward"))


