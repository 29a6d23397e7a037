"""Is the first-named cause the real one? Causes are planted, really, and the explanation is asked.

Each case runs a model twice through the runtime under the default telemetry plus kernel windows, once
as it is and once with a cause built in: a function that sleeps, weights that are unpacked in every
forward, a disk that is slow, a draft that knows nothing, many tiny layers, a long context, fewer
threads, processes that keep the cores busy, an expensive choice of the token, expensive text work,
work inside the forward, a heavy capture. No event is forged: what is judged is what the workbench
measured.

    python benchmarks/explain/planted.py                # all cases, a table
    python benchmarks/explain/planted.py --save         # writes results/ beside it
    python benchmarks/explain/planted.py --only sleep,threads --repeats 3
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.analysis.evidence import gather
from workbench.analysis.explain import explain
from workbench.events import Event
from workbench.settings import Settings

PROMPT = 'def read_lines(path):\n    """Return the lines of a file."""\n'
#: Telemetry of both runs: windows often enough for short runs.
WATCHED = {"telemetry.preset": "kernels", "telemetry.power": False, "limits.stop_at_eos": False,
           "compute.threads": 1}


def run(settings: Settings, model: Any, prompt: str = PROMPT) -> list[Event]:
    """One generation under the telemetry that a user's run has, its events in order."""
    from workbench.telemetry import Monitor
    from workbench.telemetry.neighbours import Neighbours

    events: list[Event] = []
    model.prepare(settings, lambda event: None)
    began = time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - began

    monitor, neighbours = Monitor(settings, model, events.append, clock), Neighbours(events.append, clock)
    neighbours.start()
    monitor.start()
    try:
        model.generate([prompt], settings, events.append, lambda: False, monitor, clock=clock)
    finally:
        monitor.stop()
        neighbours.stop()
    return events


def opened(settings: Settings, by_module: bool = False) -> Any:
    """``by_module``: without the native executor, so that modules can be replaced."""
    from workbench.runtime.model import load

    model = load(settings, lambda event: None)
    if by_module and getattr(model.forward, "executor", None) is not None:
        model.forward.executor = None
    return model


@dataclass(frozen=True)
class Case:
    """``causes``: keys that are right. ``base``, ``other``: settings of the two runs, beside WATCHED.

    ``plant(model)``: builds the cause in while it is open. ``fresh``: the runs need models of their own."""

    name: str
    causes: tuple[str, ...]
    plant: Callable[[Any], contextlib.AbstractContextManager[Any]] = lambda model: contextlib.nullcontext()
    base: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False
    by_module: bool = False
    tokens: int = 80
    long_prompt: int = 0


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Runs both, asks for the explanation -> what it named, whether that was right."""
    base_settings = Settings().with_({**WATCHED, "limits.max_new_tokens": case.tokens, **resolved(
        case.base, folder)})
    settings = base_settings.with_(resolved(case.other, folder))
    model = opened(base_settings, case.by_module)
    try:
        run(base_settings.with_({"limits.max_new_tokens": 16}), model)
        before = run(base_settings, model)
        if case.fresh:
            model.close()
            model = opened(settings, case.by_module)
        prompt = PROMPT * case.long_prompt if case.long_prompt else PROMPT
        with case.plant(model):
            after = run(settings, model, prompt)
    finally:
        model.close()
    return judged(case, before, after)


def judged(case: Case, before: list[Event], after: list[Event]) -> dict[str, Any]:
    found = explain(after, before)
    assert found is not None
    first = found.first
    return {
        "case": case.name, "planted": list(case.causes), "named": first.key if first else None,
        "right": bool(first and first.key in case.causes), "said": first.say if first else "",
        "second": found.causes[1].key if len(found.causes) > 1 else None,
        "base_ms": found.base.total_ms if found.base else None, "ms": found.other.total_ms,
        "deltas": {k: round(v, 4) for k, v in (found.fall.deltas if found.fall else {}).items()},
        "sum_error": abs(sum(found.fall.deltas.values()) - found.fall.delta_ms) if found.fall else None,
        "disturbed": round(found.evidence.disturbed, 3),
        "base_disturbed": round(gather(before).disturbed, 3)}


def resolved(changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings with the models that a case needs made in ``folder``."""
    return {k: v(folder) if callable(v) else v for k, v in changes.items()}


# -- the models of the cases -------------------------------------------------------------------


def shaped(folder: Path, name: str, hidden: int, layers: int, intermediate: int, **more: Any) -> str:
    """A config.json of a Llama to open with random weights."""
    path = folder / name / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64, "intermediate_size": intermediate, "vocab_size": 4096,
        "max_position_embeddings": 4096, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
        "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **more}))
    return str(path)


def few_layers(folder: Path) -> str:
    return shaped(folder, "few", 512, 2, 1408)


def many_layers(folder: Path) -> str:
    """A sixteenth of the matrices' bytes per layer, forty layers."""
    return shaped(folder, "many", 128, 40, 256)


def wide(folder: Path) -> str:
    """Products large enough that threads share them."""
    return shaped(folder, "wide", 1536, 6, 4096)


def large_vocabulary(folder: Path) -> str:
    return shaped(folder, "vocabulary", 128, 2, 256, vocab_size=128_000)


def random_draft(folder: Path) -> str:
    """The bundled draft's shape and tokenizer with random weights: it agrees with nothing."""
    import torch
    from safetensors.torch import load_file, save_file

    from workbench import zoo

    path = folder / "random-draft"
    if not path.exists():
        shutil.copytree(zoo.path("wb-1m"), path)
        torch.manual_seed(0)
        tensors = load_file(path / "model.safetensors")
        save_file({k: torch.randn_like(t.float()).mul(0.5).to(t.dtype) for k, t in tensors.items()},
                  path / "model.safetensors", metadata={"format": "pt"})
    return str(path)


# -- what is planted ---------------------------------------------------------------------------


@contextlib.contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """``owner.name`` is ``make(original)`` while this is open."""
    original = getattr(owner, name)
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def slow_before(seconds: float) -> Callable[[Any], Any]:
    """The same function, ``seconds`` of sleep before it."""
    def make(original: Any) -> Any:
        def slowed(*args: Any, **kwargs: Any) -> Any:
            time.sleep(seconds)
            return original(*args, **kwargs)
        return slowed
    return make


def sleeping_loop(model: Any) -> contextlib.AbstractContextManager[Any]:
    from workbench.runtime.loop import Loop

    return replaced(Loop, "_retire", slow_before(0.012))


def slow_schedule(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Python that computes, not sleep, in the scheduler."""
    from workbench.runtime.loop import Loop

    def make(original: Any) -> Any:
        def slowed(*args: Any, **kwargs: Any) -> Any:
            sum(i * i for i in range(150_000))
            return original(*args, **kwargs)
        return slowed
    return replaced(Loop, "schedule", make)


def slow_text(model: Any) -> contextlib.AbstractContextManager[Any]:
    """A detokenizer that decodes everything again for every token."""
    from workbench.runtime.detokenize import Stream

    text = "the quick brown fox jumps over the lazy dog " * 400

    def make(original: Any) -> Any:
        def slowed(self: Any, token: int) -> Any:
            model.tokenizer.decode(model.tokenizer(text)["input_ids"])
            return original(self, token)
        return slowed
    return replaced(Stream, "push", make)


def slow_choice(model: Any) -> contextlib.AbstractContextManager[Any]:
    """A sampler that sorts a large vocabulary in Python's own way."""
    from workbench.runtime.sampling import Sampler

    def make(original: Any) -> Any:
        def slowed(*args: Any, **kwargs: Any) -> Any:
            sorted(((i * 7919) % 100_003 for i in range(60_000)), reverse=True)
            return original(*args, **kwargs)
        return slowed
    return replaced(Sampler, "choose", make)


@contextlib.contextmanager
def work_in_forward(model: Any) -> Iterator[None]:
    """A hook on one layer that looks something up, slowly."""
    from workbench.runtime.guard import layers_of

    handle = layers_of(model.loaded.model)[1].register_forward_pre_hook(
        lambda module, arguments: time.sleep(0.012))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def unpacking(model: Any) -> Iterator[None]:
    """Every matrix kept in int8 with a scale per row, unpacked again in every forward."""
    import torch
    from torch import nn

    class OnTheFlyLinear(nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.out_features, self.in_features = weight.shape
            scale = weight.float().abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
            self.register_buffer("packed", (weight.float() / scale).round().to(torch.int8))
            self.register_buffer("scale", scale.to(weight.dtype))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (self.packed.to(x.dtype) * self.scale).t()

    from workbench.runtime.guard import layers_of

    before = []
    for layer in layers_of(model.loaded.model):
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                weight = getattr(child, "weight", None)
                if weight is not None and weight.dim() == 2:
                    before.append((parent, name, child))
                    setattr(parent, name, OnTheFlyLinear(weight.data))
    try:
        yield
    finally:
        for parent, name, child in before:
            setattr(parent, name, child)


def slow_disk(model: Any) -> contextlib.AbstractContextManager[Any]:
    """A disk of 150 MB/s, whatever the machine's."""
    from workbench.runtime.streamer import FileToHost

    def make(original: Any) -> Any:
        def slowed(self: Any, layer: int, slot: Any, stopped: Any) -> Any:
            time.sleep(slot.buffer.numel() / 150e6)
            return original(self, layer, slot, stopped)
        return slowed
    return replaced(FileToHost, "load", make)


def _spin() -> None:
    while True:
        sum(range(10_000))


@contextlib.contextmanager
def busy_cores(model: Any) -> Iterator[None]:
    """Twice as many computing processes as there are cores."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_spin, daemon=True)
              for _ in range(2 * len(os.sched_getaffinity(0)))]
    for process in others:
        process.start()
    time.sleep(3.0)
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.join()


CASES = (
    Case("sleep in the host loop", ("host",), sleeping_loop),
    Case("computing in the scheduler", ("host",), slow_schedule),
    Case("expensive text", ("detokenizer",), slow_text),
    Case("expensive choice of the token", ("sampling",), slow_choice),
    Case("large vocabulary, nucleus sampling", ("sampling",),
         base={"model.source": large_vocabulary, "model.weights": "random"},
         other={"sampling.temperature": 1.0, "sampling.top_p": 0.9, "sampling.top_k": 0}),
    Case("sleep inside the forward", ("stalled",), work_in_forward, by_module=True),
    Case("dequantization on the fly", ("dequant",), unpacking, by_module=True),
    Case("throttled copy", ("copies",), slow_disk, other={"tiers": "stream", "tiers.resident": 4},
         fresh=True, tokens=40),
    Case("bad draft", ("rejected",),
         other={"decoding": "draft_model", "decoding.draft": random_draft}),
    Case("many tiny kernels", ("launch",), base={"model.source": few_layers, "model.weights": "random"},
         other={"model.source": many_layers}, fresh=True, by_module=True),
    Case("long context", ("attention",), base={"model.source": few_layers, "model.weights": "random"},
         long_prompt=140, tokens=160),
    Case("fewer threads", ("threads",),
         base={"model.source": wide, "model.weights": "random", "compute.threads": 2},
         other={"compute.threads": 1}, tokens=40),
    Case("busy neighbour", ("neighbour",), busy_cores),
    Case("heavy capture", ("telemetry",), base={"telemetry.preset": "light"},
         other={"telemetry.preset": "deep"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="names that contain one of these, by commas")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    wanted = [w for w in options.only.split(",") if w]
    results = []
    with tempfile.TemporaryDirectory() as name:
        for case in CASES:
            if wanted and not any(w in case.name for w in wanted):
                continue
            for _ in range(options.repeats):
                found = measure(case, Path(name))
                results.append(found)
                print(f"{'right' if found['right'] else 'WRONG'}  {case.name}: {found['said']}",
                      flush=True)
                if not found["right"]:
                    print(f"       {found}", flush=True)
    right = sum(r["right"] for r in results)
    print(f"{right} of {len(results)} causes were named first")
    if options.save:
        path = Path(__file__).parent / "results" / "planted.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({
            "benchmark": "planted causes", "right": right, "of": len(results),
            "largest_sum_error_ms": max(r["sum_error"] or 0.0 for r in results), **environment(),
            "cases": results}, indent=1) + "\n")


@functools.cache
def environment() -> dict[str, Any]:
    from workbench.machine import this_machine

    machine = this_machine()
    return {"cpu": machine.cpu, "cores": machine.cores, "python": platform.python_version(),
            "load": round(os.getloadavg()[0], 2), "date": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    main()
