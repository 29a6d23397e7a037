"""Masked-diffusion models in the runtime: the same loading and weights, another loop.

The canvas loop is :mod:`workbench.diffusion.canvas`. Commits are emitted as they happen; text follows as soon
as everything to its left is fixed, so that every view shows it in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from workbench.diffusion.canvas import Commit as Fixed
from workbench.diffusion.canvas import Filled, fill
from workbench.diffusion.model import DiffusionModel
from workbench.events import Commit, Event, Phase, RunStarted, Token
from workbench.runtime import effective
from workbench.runtime.model import _ADVICE, Model, Output
from workbench.runtime.oom import explained
from workbench.runtime.sources import resolve
from workbench.techniques.decoding._diffusion import Diffusion

if TYPE_CHECKING:
    from workbench.runtime.loading import Loaded
    from workbench.settings import Settings

Emit = Callable[[Event], None]


class CanvasModel(Model):
    """A masked-diffusion model on one device."""

    def __init__(self, loaded: Loaded, settings: Settings, emit: Emit) -> None:
        super().__init__(loaded, settings, emit)
        loaded.model.set_attn_implementation("sdpa")  # ours is for rows that see a cache
        folder = resolve(settings.model).folder
        self.diffusion = DiffusionModel(loaded.model, loaded.tokenizer, folder)

    def prepare(self, settings: Settings, emit: Emit,
                cancelled: Callable[[], bool] | None = None) -> None:
        """Nothing else to load; one forward, so that no run's clock counts the first."""
        if 0 in self._warm:
            return
        with torch.inference_mode(), explained("the first forward", _ADVICE):
            model = self.diffusion
            model.logits(model.rows([model.eos], model.canvas),
                         torch.full((1, model.canvas), model.mask, device=self.device))
        self._warm.add(0)

    def generate(self, prompts: list[str], settings: Settings, emit: Emit,
                 cancelled: Callable[[], bool], monitor: Any = None,
                 clock: Callable[[], float] | None = None) -> Output:
        """Fill a canvas for every prompt; emits RunStarted, Phase, Commit, Token, Memory, Effective."""
        from workbench.runtime.loop import clock_from_zero

        self.prepare(settings, emit, cancelled)
        clock = clock or clock_from_zero()
        ids = [self.diffusion.encode(p) for p in prompts]
        emit(RunStarted(t_s=clock(), prompt_tokens=sum(map(len, ids)), sequences=len(ids),
                        started_unix_s=time.time()))
        with explained("the run", _ADVICE):
            done = [_Writing(self, settings, emit, clock, i, monitor).go(x, cancelled)
                    for i, x in enumerate(ids)]
        self._report_memory(clock, emit)
        self._report_effective(settings, emit, clock, done)
        return Output(
            texts=[self.diffusion.decode(d.tokens) for d in done], tokens=[d.tokens for d in done],
            prompt_tokens=[len(x) for x in ids], ended=["eos"] * len(done), seconds=clock(),
            forwards=sum(d.forwards for d in done), drafted=0, accepted=0,
            mean_accepted=sum(d.per_forward for d in done) / len(done))

    def _report_effective(self, settings: Settings, emit: Emit, clock: Callable[[], float],
                          done: list[Filled]) -> None:
        import msgspec

        forwards, tokens = sum(d.forwards for d in done), sum(len(d.tokens) + 1 for d in done)
        facts = effective.Facts(
            loaded=self.loaded.effective, layers=self.placement(), attention="torch sdpa, both ways",
            executor="module by module", kv_bytes=0, kv_tokens=0,
            kv_label="none: a canvas is computed anew at every step", sequences=len(done),
            threads=torch.get_num_threads(), stops=[self.diffusion.eos],
            ended="eos", new_tokens=tokens, forwards=forwards, finished=True)
        records = {r.path: r for r in effective.records(settings, facts)}
        method = "one place per forward" if settings.decoding.name() == "plain" else str(
            settings.decoding)
        changed = {"decoding": f"{method}: {tokens} tokens in {forwards} forwards",
                   "limits.max_new_tokens": f"the canvas: {self.diffusion.canvas} places"}
        for path, text in changed.items():
            records[path] = msgspec.structs.replace(records[path], effective=text)
        if settings.sampling.temperature > 0:
            records["sampling.temperature"] = msgspec.structs.replace(
                records["sampling.temperature"], effective="0", honoured=False,
                reason="canvas decoders take the likeliest token")
        self._effective = records
        for record in records.values():
            emit(msgspec.structs.replace(record, t_s=clock()))


class _Writing:
    """One canvas: turns the loop's decisions into events."""

    def __init__(self, model: CanvasModel, settings: Settings, emit: Emit,
                 clock: Callable[[], float], sequence: int, monitor: Any) -> None:
        self.model, self.emit, self.clock, self.sequence = model, emit, clock, sequence
        self.monitor = monitor
        self.settings = settings
        self.fixed: dict[int, int] = {}
        self.next = 0
        self.ended = False
        self.started = 0.0
        self.step = 0

    def go(self, prompt: list[int], cancelled: Callable[[], bool]) -> Filled:
        self.started = self.clock()
        return fill(self.model.diffusion, prompt, self._method(), on_step=self._step,
                    cancelled=cancelled, forward=self._forward)

    def _forward(self, prompt: torch.Tensor, canvases: torch.Tensor) -> torch.Tensor:
        rows = canvases.numel()
        if self.monitor is not None:
            self.monitor.before("decode", self.step + 1, rows)
        try:
            return self.model.diffusion.logits(prompt, canvases)
        finally:
            if self.monitor is not None:
                self.monitor.after("decode", self.step + 1, rows)

    def _method(self) -> Diffusion:
        if isinstance(self.settings.decoding, Diffusion):
            return self.settings.decoding
        from workbench.techniques.decoding.diffusion_static import DiffusionStatic

        return DiffusionStatic()

    def _step(self, forwards: int, commits: list[Fixed]) -> None:
        now, canvas = self.clock(), self.model.diffusion.canvas
        self.step += 1
        self.emit(Phase(t_s=now, phase="decode", start_s=self.started, end_s=now, step=self.step,
                        rows=canvas, tokens=len(commits)))
        for c in commits:
            self.fixed[c.place] = c.token
            self.emit(Commit(t_s=now, step=forwards, place=c.place, id=c.token, canvas=canvas,
                             text=self.model.diffusion.decode([c.token]), confidence=c.confidence,
                             sequence=self.sequence))
        while self.next in self.fixed and not self.ended:
            token = self.fixed[self.next]
            self.ended = token == self.model.diffusion.eos
            space = " " if self.next else ""
            word = "" if self.ended else space + self.model.diffusion.decode([token])
            self.emit(Token(t_s=now, index=self.next, id=token, text=word, step=self.step,
                            sequence=self.sequence))
            self.next += 1
        self.started = self.clock()
