"""A loaded model: generate, say what really ran, say what it holds, give the memory back."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import OutOfMemory, SettingsError
from workbench.events import Effective, Event, Memory, RunStarted
from workbench.runtime import drafts, effective, memory, native_library
from workbench.runtime.attention import kernel_name
from workbench.runtime.cache_split import split
from workbench.runtime.detokenize import Stream
from workbench.runtime.forward import Forward
from workbench.runtime.guard import Guard, layers_of
from workbench.runtime.lean import LeanForward, lighten
from workbench.runtime.loading import Loaded, load_model
from workbench.runtime.loop import Loop, Sequence, clock_from_zero
from workbench.runtime.oom import explained
from workbench.runtime.sampling import Sampler
from workbench.runtime.sources import resolve
from workbench.runtime.spans import span
from workbench.runtime.speculation import SpeculativeLoop
from workbench.runtime.speculation_facts import read_back
from workbench.shape import from_config
from workbench.techniques.kvcache import capacity
from workbench.units import format_bytes

if TYPE_CHECKING:
    from workbench.runtime.cache import StaticCache
    from workbench.runtime.native_trace import Ring
    from workbench.settings import Settings

Emit = Callable[[Event], None]
_MEMORY_EVERY_S = 1.0
_ADVICE = "lower limits.max_new_tokens or limits.batch, shorten the prompt, or choose kv=int8"


@dataclass
class Output:
    """What a generation gave, per sequence. ``mean_accepted`` is tokens per target forward after
    the prefill (1.0 for plain decoding)."""

    texts: list[str]
    tokens: list[list[int]]
    prompt_tokens: list[int]
    ended: list[str]
    seconds: float = 0.0
    forwards: int = 0
    drafted: int = 0
    accepted: int = 0
    mean_accepted: float = 1.0


@dataclass
class DraftModel:
    """A loaded draft: its forward and its bytes."""

    forward: Forward | LeanForward
    weights_bytes: int
    name: str

    def cache(self, tokens: int, sequences: int = 1) -> StaticCache:
        from workbench.runtime.cache import full_cache

        return full_cache(self.forward.config, sequences, tokens, self.forward.device, self.forward.dtype)


@dataclass
class Runtime:
    """What a drafter gets when it starts."""

    model: Model
    settings: Settings
    sampler: Sampler
    capacity: int
    guard: Guard
    emit: Emit

    def of(self, sequence: int) -> Runtime:
        """For the drafter of one sequence of a batch: the sampler draws that sequence's noise."""
        return replace(self, sampler=self.sampler.of(sequence))


def load(settings: Settings, emit: Emit, cancelled: Callable[[], bool] | None = None) -> Model:
    """Read, pack and place the model that ``settings`` names.

    Raises ModelError, SettingsError, OutOfMemory or Cancelled, each with one sentence; after any of
    them nothing stays allocated."""
    set_threads(settings.compute.threads)
    # What cannot work is told before the long read.
    drafts.check(settings, from_config(resolve(settings.model).config))
    loaded = load_model(settings, emit, cancelled)
    if loaded.shape.canvas:
        from workbench.runtime.canvas import CanvasModel

        model: Model = CanvasModel(loaded, settings, emit)
    else:
        model = Model(loaded, settings, emit)
    try:
        model.prepare(settings, emit, cancelled)
    except BaseException:
        model.close()
        raise
    return model


def set_threads(threads: int) -> None:
    """0 leaves torch's own choice: one thread per core that this process may use."""
    if threads:
        torch.set_num_threads(threads)


class Model:
    """One model on one device. Not thread-safe: the engine's main thread owns it."""

    def __init__(self, loaded: Loaded, settings: Settings, emit: Emit) -> None:
        self.loaded, self.settings, self.emit = loaded, settings, emit
        self.shape, self.device, self.dtype = loaded.shape, loaded.device, loaded.dtype
        self.tokenizer = loaded.tokenizer
        self.forward = Forward(loaded.model, loaded.device, loaded.dtype)
        if loaded.parked is None:
            self.forward.execute_natively()
            if settings.compute.graphs == "auto":
                self.forward.use_graphs()
        else:
            self.forward.module_reason = "layers are streamed"
        # None: everything is resident, so nothing has to be fetched.
        self.streamer = settings.tiers.start(self) if loaded.parked is not None else None
        self._warm: set[int] = set()
        self._pieces: dict[int, str] = {}
        self._draft: tuple[str, DraftModel] | None = None
        self._cache: StaticCache | None = None
        self._drafter: Any = None
        self._effective: dict[str, Effective] = {}
        self._report_memory(time.perf_counter)

    def prepare(self, settings: Settings, emit: Emit,
                cancelled: Callable[[], bool] | None = None) -> None:
        """Load the draft that ``settings`` name, and run one token through what has not run yet (the
        first forward of a process sets up kernels): so that no run's clock counts either."""
        drafts.check(settings, self.shape)
        named = getattr(settings.decoding, "draft", None)
        draft = self.draft_for(named, settings, emit, cancelled) if named is not None else None
        with torch.inference_mode(), explained("the first forward", _ADVICE):
            for forward in (self.forward, draft.forward if draft else None):
                if forward is not None and id(forward) not in self._warm and self.streamer is None:
                    forward.warm()
                    self._warm.add(id(forward))

    # -- generating -------------------------------------------------------------------------

    def generate(self, prompts: list[str], settings: Settings, emit: Emit,
                 cancelled: Callable[[], bool], monitor: Any = None,
                 clock: Callable[[], float] | None = None) -> Output:
        """Continue every prompt; emits RunStarted, Phase, Token, Draft, Memory, Effective.

        ``clock``: seconds since the run began; by default it starts here. Raises Cancelled (what was
        emitted stays valid), SettingsError, OutOfMemory."""
        with torch.inference_mode(), explained("the run", _ADVICE):
            self.prepare(settings, emit, cancelled)
            return Generation(self, settings, emit, cancelled, monitor,
                              clock or clock_from_zero()).run(prompts)

    def encode(self, prompt: str) -> list[int]:
        """Token ids; a text without any starts from the model's first token."""
        ids = list(self.tokenizer(prompt, verbose=False)["input_ids"])
        if ids:
            return ids
        start = getattr(self.forward.config, "bos_token_id", None)
        if start is None:
            raise SettingsError("the prompt is empty; write some text")
        return [int(start)]

    def piece(self, token: int) -> str:
        """One token's own text, for the ribbon."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self.tokenizer.decode([token])
        return found

    def stops(self) -> list[int]:
        """Tokens that end a text, from the generation config, the config or the tokenizer."""
        generation = getattr(self.loaded.model, "generation_config", None)
        for source in (generation, self.forward.config, self.tokenizer):
            ids = getattr(source, "eos_token_id", None)
            if ids is not None:
                return [int(i) for i in (ids if isinstance(ids, list) else [ids])]
        return []

    def cache(self, settings: Settings, batch: int, tokens: int, own: bool = False) -> StaticCache:
        """A cache of the settings' kind; refused before allocation when it cannot fit. ``own``: its
        sequences will have different lengths."""
        dtype = str(self.dtype).removeprefix("torch.")
        need = batch * (settings.kv.token_bytes(self.shape, dtype) * tokens
                        + settings.kv.fixed_bytes(self.shape, dtype))
        free = free_bytes(self.device)
        if need > free:
            raise OutOfMemory(f"the KV cache needs {format_bytes(need)} for {batch} x {tokens} tokens "
                              f"and {format_bytes(free)} is free on {self.device}; {_ADVICE}")
        make = functools.partial(settings.kv.start, self.loaded.model.config, capacity=tokens,
                                 device=self.device, dtype=self.dtype)
        return split(lambda n: make(batch=n), batch) if own and batch > 1 else make(batch=batch)

    def draft_for(self, draft: str, settings: Settings, emit: Emit,
                  cancelled: Callable[[], bool] | None = None) -> DraftModel:
        """The draft that ``settings.decoding.draft`` names, loaded once and kept for the next run."""
        path = drafts.locate(draft, settings.model.source)
        wanted = drafts.settings_for(settings, path)
        key = f"{path}|{wanted.to_json()}"
        if self._draft is None or self._draft[0] != key:
            drafts.check(settings, self.shape)
            self._draft = None
            why = drafts.mismatch(from_config(resolve(wanted.model).config), self.shape)
            if why:  # of a hub id this is known only now, when its config is here
                raise SettingsError(f"draft={draft}: {why}")
            loaded = load_model(wanted, emit, cancelled)
            self._draft = (key, _draft_from(loaded, str(path)))
        return self._draft[1]

    # -- looking ----------------------------------------------------------------------------

    def effective(self) -> dict[str, Effective]:
        """path -> what ran in the last generation (before one: what loading did)."""
        return dict(self._effective or self.loaded.effective)

    def placement(self) -> list[str]:
        """For every decoder layer the tier its weights are kept on."""
        from workbench.machine import this_machine

        return self.settings.tiers.placement(len(layers_of(self.loaded.model)), this_machine(),
                                             str(self.device))

    def weights_by_tier(self) -> dict[str, int]:
        """Bytes of the target's weights on each tier."""
        held = memory.module_bytes(self.loaded.model)
        if self.streamer is not None:
            for tier, n in self.streamer.bytes_by_tier().items():
                held[tier] = max(n, held.get(tier, 0))
        return held

    @property
    def op_records(self) -> Ring | None:
        """Records of the executor's own operations; None where steps run module by module."""
        executor = self.forward.executor
        return executor.ring if executor is not None else None

    def memory(self) -> list[Memory]:
        """One reading per tier in use, split by use."""
        held = self._weights
        compute = "gpu" if self.device.type == "cuda" else "ram"
        cache = self._cache
        drafter = self._drafter.memory_bytes() if self._drafter is not None else (
            self._draft[1].weights_bytes if self._draft else 0)
        executor = self.forward.executor  # what it holds beside the weights: a step's activations, tables
        parts = memory.Parts(weights=held.get(compute, 0), kv=cache.nbytes if cache else 0,
                             activations=executor.nbytes if executor else 0, draft=drafter,
                             workspace=cache.workspace_bytes if cache else 0)
        other = {tier: n for tier, n in held.items() if tier != compute}
        return memory.readings(self.device, parts, other)

    def _report_memory(self, clock: Callable[[], float], emit: Emit | None = None) -> None:
        import msgspec

        self._weights = self.weights_by_tier()
        for reading in self.memory():
            (emit or self.emit)(msgspec.structs.replace(reading, t_s=clock() if emit else 0.0))

    def close(self) -> None:
        """Give everything back: the streamer's threads, weights, caches, the draft."""
        if self.streamer is not None:
            self.streamer.stop()
        self.streamer = self._draft = self._cache = self._drafter = None
        model = self.loaded.model
        self.loaded = self.forward = None  # type: ignore[assignment]
        for module in list(model.modules()):
            module._parameters.clear()
            module._buffers.clear()
        del model
        give_back(self.device)


def _draft_from(loaded: Loaded, path: str) -> DraftModel:
    """One C call per step where that is possible; else the lean form where there is one
    (transformers' own module goes then)."""
    whole = Forward(loaded.model, loaded.device, loaded.dtype)
    whole.execute_natively()
    forward = whole if whole.executor is not None else lighten(whole)
    lean = isinstance(forward, LeanForward)
    held = forward.nbytes if isinstance(forward, LeanForward) else loaded.weights_bytes
    name = f"{loaded.shape.parameters / 1e6:.3g} M parameters from {_shown(path)}"
    how = ", native executor" if whole.executor else ", own forward of few operations" if lean else ""
    return DraftModel(forward, held, name + how)


def _shown(path: str) -> str:
    """A bundled model by its name: a recorded run must not tell where this was installed."""
    from workbench import zoo

    return next((n for n in zoo.names() if str(zoo.path(n)) == path), path)


def free_bytes(device: torch.device) -> int:
    """What an allocation on ``device`` may still take."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    import psutil

    return int(psutil.virtual_memory().available)


def give_back(device: torch.device) -> None:
    """Return freed blocks from the allocators to the device and the OS."""
    import contextlib
    import ctypes

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@dataclass
class Generation:
    """One call of ``Model.generate``: makes the parts, runs the loop, reports."""

    model: Model
    settings: Settings
    emit: Emit
    cancelled: Callable[[], bool]
    monitor: Any
    clock: Callable[[], float]
    loop: Loop | None = None
    _next_memory_s: float = 0.0
    _facts: dict[str, Any] = field(default_factory=dict)

    def run(self, prompts: list[str]) -> Output:
        model, settings = self.model, self.settings
        set_threads(settings.compute.threads)
        with span("tokenize"):
            ids = [model.encode(p) for p in prompts]
        tokens = capacity(max(map(len, ids)), settings.limits.max_new_tokens,
                          settings.decoding.rows())
        self._refuse_too_long(max(map(len, ids)))
        try:
            with span("set up"):
                self.loop = self._prepare(ids, tokens)
            self.emit(RunStarted(t_s=self.clock(), prompt_tokens=sum(map(len, ids)),
                                 sequences=len(ids), started_unix_s=time.time()))
            self.loop.run()
            return self._output()
        finally:
            if self.loop is not None:
                self._report(finished=True)
            model._cache = model._drafter = None

    def _refuse_too_long(self, prompt: int) -> None:
        limit, wanted = self.model.forward.max_positions, self.settings.limits.max_new_tokens
        if prompt + wanted > limit:
            room = max(0, limit - prompt)
            raise SettingsError(
                f"the prompt's {prompt} tokens and limits.max_new_tokens={wanted} exceed the model's "
                f"{limit} positions; " + (f"set limits.max_new_tokens to {room} or less" if room
                                          else f"shorten the prompt below {limit} tokens"))

    def _prepare(self, ids: list[list[int]], tokens: int) -> Loop:
        model, settings = self.model, self.settings
        sampling = settings.sampling
        sampler = Sampler(sampling.temperature, sampling.top_k, sampling.top_p, settings.seed,
                          model.device)
        guard = Guard(self.cancelled)
        if model.streamer is not None:
            model.streamer.cancelled = self.cancelled
        runtime = Runtime(model, settings, sampler, tokens, guard, self.emit)
        own = settings.decoding.loop(runtime, len(ids))
        drafters = model._drafter = settings.decoding.start_batch(runtime, len(ids))
        cache = model._cache = model.cache(settings, len(ids), tokens, own=drafters is not None)
        sequences = [Sequence(i, list(x), len(x), Stream(model.tokenizer, x))
                     for i, x in enumerate(ids)]
        stops = set(model.stops()) if settings.limits.stop_at_eos else set()
        self._facts = {"kv_label": cache.label, "kv_bytes": cache.nbytes, "kv_tokens": tokens}
        make = own or (Loop if drafters is None else functools.partial(
            SpeculativeLoop, drafters=drafters, choice=settings.decoding))
        loop = make(
            model.forward, cache, sampler, sequences, stops=stops,
            max_new_tokens=settings.limits.max_new_tokens, chunk=chunk_rows(model), emit=self.emit,
            clock=self.clock, guard=guard, piece=model.piece, monitor=self.monitor, idle=self._idle)
        if drafters is None and hasattr(loop, "memory_bytes"):  # a loop of a method's own
            model._drafter = loop
        return loop

    def _idle(self, when: str) -> None:
        """Between forwards: what is due now and then."""
        now = self.clock()
        if self.model.streamer is not None:
            for transfer in self.model.streamer.drain_transfers(self.clock):
                self.emit(transfer)
        if when == "prefill":
            self._report(finished=False)
        if when == "prefill" or now >= self._next_memory_s:
            self._next_memory_s = now + _MEMORY_EVERY_S
            with span("reports"):
                self.model._report_memory(self.clock, self.emit)

    def _report(self, finished: bool) -> None:
        import msgspec

        with span("reports"):
            records = effective.records(self.settings, self._read_back(finished))
            self.model._effective = {r.path: r for r in records}
            for record in records:
                self.emit(msgspec.structs.replace(record, t_s=self.clock()))

    def _read_back(self, finished: bool) -> effective.Facts:
        model, loop = self.model, self.loop
        assert loop is not None
        return effective.Facts(
            loaded=model.loaded.effective, layers=model.placement(), **self._facts,
            executor=model.forward.describe(), device=str(model.device),
            attention=kernel_name(model.forward.implementation, model.device),
            sequences=len(loop.sequences), threads=torch.get_num_threads(), stops=sorted(loop.stops),
            draft=model._draft[1].name if model._draft and isinstance(loop, SpeculativeLoop) else "",
            ended=loop.sequences[0].ended or "cancelled",
            new_tokens=sum(s.new for s in loop.sequences), verifications=loop.verifications,
            drafted=loop.drafted, accepted=loop.accepted, mean_accepted=loop.mean_accepted(),
            speculation=read_back(loop) if isinstance(loop, SpeculativeLoop) else {},
            says=loop.says(),
            watched=self.monitor is not None, finished=finished)

    def _output(self) -> Output:
        loop = self.loop
        assert loop is not None
        done = loop.sequences
        return Output(
            texts=["".join(s.text) for s in done], tokens=[s.ids[s.prompt_tokens:] for s in done],
            prompt_tokens=[s.prompt_tokens for s in done], ended=[s.ended for s in done],
            seconds=self.clock(), forwards=loop.forwards, drafted=loop.drafted,
            accepted=loop.accepted, mean_accepted=loop.mean_accepted())


def chunk_rows(model: Model) -> int:
    """Rows of one prefill forward: on a CPU few enough that one layer takes about 0.1 s on a slow
    one (100 GFLOP/s), so that a cancel between layers is soon enough; on a GPU 2048. The native kernels
    are faster on the matrix unit and best at 256 rows, of which a block of columns stays in the second-level
    cache."""
    if model.device.type == "cuda":
        return 2048
    rows = _power_of_two(1e10 / (2 * max(1, model.shape.layer_parameters)))
    if model.forward.executor is not None and native_library.isa() == "amx":
        rows = max(rows, min(256, _power_of_two(1.2e11 / (2 * max(1, model.shape.layer_parameters)))))
    return max(32, min(512, rows))


def _power_of_two(most: float) -> int:
    return 1 << max(0, int(most).bit_length() - 1)
