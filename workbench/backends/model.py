"""A peer as the engine's process uses a model: events, texts, effective settings, memory, quality."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.backends.base import Facts, Opening, Peer, Request
from workbench.backends.scoring import PeerForward, Position
from workbench.errors import Cancelled, SettingsError
from workbench.events import Effective, Event, Memory, Phase, RunStarted, Token
from workbench.runtime import effective
from workbench.runtime.detokenize import Stream
from workbench.runtime.model import Output
from workbench.runtime.sources import resolve
from workbench.runtime.tokens import tokenizer_for
from workbench.shape import from_config

if TYPE_CHECKING:
    from workbench.settings import Settings

Emit = Callable[[Event], None]
_MEMORY_EVERY_S = 1.0


class PeerModel:
    """One model in a peer. Not thread-safe: the engine's main thread owns it."""

    def __init__(self, opening: Opening, peer: Peer) -> None:
        import torch

        self.settings, self.shape, self.peer = opening.settings, opening.shape, peer
        self.tokenizer, self.source = opening.tokenizer, opening.source
        self.device = torch.device("cuda" if peer.device.startswith("cuda") else "cpu")
        self.streamer = None
        self.loaded = getattr(peer, "loaded", None)
        self.dtype = self.loaded.dtype if self.loaded else torch.bfloat16
        self.forward = PeerForward(peer, opening.shape)
        self._effective: dict[str, Effective] = {}
        for reading in self.memory():
            opening.emit(reading)

    @classmethod
    def open(cls, start: Callable[[Opening], Peer], settings: Settings, emit: Emit,
             cancelled: Callable[[], bool]) -> PeerModel:
        """Raises ModelError, SettingsError, MissingDependency, Cancelled, each with one sentence."""
        source = resolve(settings.model)
        shape = from_config(source.config)
        if shape.canvas:
            raise SettingsError(f"backend={settings.backend.name()} does not run masked-diffusion "
                                "models; choose backend=native")
        tokenizer, _ = tokenizer_for(source.folder, shape.vocab,
                                     source.random or source.gguf is not None,
                                     settings.model.trust_remote_code)
        opening = Opening(settings, source, shape, tokenizer, emit, cancelled)
        return cls(opening, start(opening))

    def prepare(self, settings: Settings, emit: Emit,
                cancelled: Callable[[], bool] | None = None) -> None:
        """Peers set themselves up while loading."""

    # -- generating -------------------------------------------------------------------------

    def generate(self, prompts: list[str], settings: Settings, emit: Emit,
                 cancelled: Callable[[], bool], monitor: Any = None,
                 clock: Callable[[], float] | None = None) -> Output:
        """Continue every prompt, one after the other. Emits as the native runtime does."""
        zero = time.perf_counter()
        return _Run(self, settings, emit, cancelled, monitor,
                    clock or (lambda: time.perf_counter() - zero)).run(prompts)

    def encode(self, prompt: str) -> list[int]:
        """Token ids, as the native runtime reads the prompt."""
        ids = list(self.tokenizer(prompt, verbose=False)["input_ids"])
        start = self.source.config.get("bos_token_id")
        if not ids and start is None:
            raise SettingsError("the prompt is empty; write some text")
        return ids or [int(start or 0)]

    def stops(self) -> set[int]:
        """Tokens that end a text."""
        ids = self.source.config.get("eos_token_id", self.tokenizer.eos_token_id)
        return {int(i) for i in (ids if isinstance(ids, list) else [ids]) if i is not None}

    # -- looking ----------------------------------------------------------------------------

    def memory(self) -> list[Memory]:
        """The process's resident set, or the device's allocation, with what the peer says of it."""
        from workbench.runtime.memory import resident_bytes

        held = self.peer.held()
        total = resident_bytes() if held.total is None else held.total
        return [Memory(tier=held.tier, total_bytes=total, weights_bytes=held.weights or 0,
                       kv_bytes=held.kv or 0, source=held.source or "resident set; "
                       f"{self.peer.title} does not say what it is for")]

    def effective(self) -> dict[str, Effective]:
        return dict(self._effective)

    def cache(self, settings: Settings, batch: int, tokens: int) -> Position:
        """For quality: where the next rows go. Raises SettingsError where the peer gives no logits."""
        if self.peer.extend([self.forward.first], 0) is None:
            raise SettingsError(f"{self.peer.title} does not give logits, so its quality cannot be "
                                "measured; set quality=off, or choose another backend")
        return Position(self.forward.max_positions)

    def close(self) -> None:
        self.peer.close()
        self.loaded = None


class _Run:
    """One call of ``generate``."""

    def __init__(self, model: PeerModel, settings: Settings, emit: Emit,
                 cancelled: Callable[[], bool], monitor: Any, clock: Callable[[], float]) -> None:
        self.model, self.settings, self.emit, self.clock = model, settings, emit, clock
        self.cancelled, self.monitor = cancelled, monitor
        self.new = self.forwards = 0
        self.ended = ""
        self._next_memory_s = 0.0

    def check(self) -> None:
        if self.cancelled():
            raise Cancelled("cancelled")

    def run(self, prompts: list[str]) -> Output:
        model, limits = self.model, self.settings.limits
        ids = [model.encode(p) for p in prompts]
        room, longest = model.shape.max_positions, max(map(len, ids))
        if longest + limits.max_new_tokens > room:
            raise SettingsError(f"the prompt's {longest} tokens and limits.max_new_tokens="
                                f"{limits.max_new_tokens} exceed the model's {room} positions; "
                                "shorten one of them")
        stops = model.stops() if limits.stop_at_eos else set()
        self.emit(RunStarted(t_s=self.clock(), prompt_tokens=sum(map(len, ids)),
                             sequences=len(ids), started_unix_s=time.time()))
        done = []
        try:
            for index, prompt in enumerate(ids):
                done.append(_Sequence(self, index, prompt, stops).run())
        finally:
            self._report(ids, stops, finished=True)
        return Output(texts=["".join(s.text) for s in done], tokens=[s.ids for s in done],
                      prompt_tokens=[len(i) for i in ids], ended=[s.ended for s in done],
                      seconds=self.clock(), forwards=self.forwards)

    def memory(self) -> None:
        import msgspec

        now = self.clock()
        if now >= self._next_memory_s:
            self._next_memory_s = now + _MEMORY_EVERY_S
            for reading in self.model.memory():
                self.emit(msgspec.structs.replace(reading, t_s=now))

    def _report(self, ids: list[list[int]], stops: set[int], finished: bool) -> None:
        import msgspec
        import torch

        model, settings = self.model, self.settings
        facts = model.peer.facts(settings)
        flat = settings.flat()
        own = {p: Effective(path=p, requested=str(flat.get(p, "auto")), effective=e,
                            honoured=not why, reason=why)
               for p, (e, why) in {**_common(settings, model.peer, len(ids)), **facts}.items()}
        held = model.peer.held()
        records = effective.records(settings, effective.Facts(
            loaded=own, layers=["ram"], attention=facts.get("attention", ("its own", ""))[0],
            executor=model.peer.title, kv_label="", kv_bytes=held.kv or 0, kv_tokens=0,
            sequences=len(ids), threads=torch.get_num_threads(), stops=sorted(stops),
            ended=self.ended, new_tokens=self.new, forwards=self.forwards,
            watched=self.monitor is not None, finished=finished))
        once = {r.path: r for r in reversed(records)}  # a peer's own word stands before ours
        model._effective = once
        for record in reversed(once.values()):
            self.emit(msgspec.structs.replace(record, t_s=self.clock()))


def _common(settings: Settings, peer: Peer, sequences: int) -> Facts:
    """What holds for every peer."""
    found: Facts = {"backend": (peer.title, ""), "executor": (peer.title, "")}
    if sequences > 1:
        found["limits.batch"] = (f"{sequences}, one after the other",
                                 f"{peer.title} is driven with one sequence at a time")
    if settings.backend.name() != "transformers":
        preset = settings.telemetry.preset
        found["telemetry.preset"] = ("off", "" if preset == "off" else
                                     f"the kernels of {peer.title} cannot be seen from here")
    return found


class _Sequence:
    """One prompt and what follows it, as its tokens come."""

    def __init__(self, run: _Run, index: int, ids: list[int], stops: set[int]) -> None:
        self.owner, self.index, self.prompt, self.stops = run, index, ids, stops
        self.stream = Stream(run.model.tokenizer, ids)
        self.ids: list[int] = []
        self.text: list[str] = []
        self.ended = ""
        self._started = 0.0

    def run(self) -> _Sequence:
        owner = self.owner
        owner.check()
        self._started = owner.clock()
        owner.model.peer.generate(Request(
            owner.settings, self.prompt, self.index, owner.settings.limits.max_new_tokens,
            self.stops, self.token, owner.check, owner.monitor))
        owner.ended = self.ended
        return self

    def token(self, token: int) -> bool:
        """Say what came; True when this was the last one. Raises Cancelled."""
        owner, first, now = self.owner, not self.ids, self.owner.clock()
        owner.emit(Phase(t_s=now, phase="prefill" if first else "decode", start_s=self._started,
                         end_s=now, step=len(self.ids), tokens=1,
                         rows=len(self.prompt) if first else 1))
        stop = token in self.stops
        text = "" if stop else self.stream.push(token)
        self.ids.append(token)
        last = stop or len(self.ids) >= owner.settings.limits.max_new_tokens
        if last:
            text += self.stream.rest()
            self.ended = "eos" if stop else "length"
        self.text.append(text)
        owner.emit(Token(t_s=now, index=len(self.ids) - 1, id=token, text=text,
                         step=len(self.ids) - 1, sequence=self.index))
        owner.new += 1
        owner.forwards += 1
        owner.memory()
        owner.check()
        self._started = owner.clock()
        return last
