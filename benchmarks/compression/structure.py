"""Sparsity and structure on the bundled model: loss, divergence, bytes, and what is really faster.

Quality: held-out loss and KL to the original, nats per token, float32, on windows of 256 tokens of the
bundled evaluation documents; calibration and training text are other text. ``se`` is by windows.
Speed: the parts ``kernel`` and ``decode`` alternate the compared calls in one process and give the median
of the paired ratios; matrices of ``kernel`` add up to 200 MB, so that nothing stays in the caches below the
last one. ``--clock cpu`` counts the thread's processor time instead, for a machine that others use: waiting
for a turn does not count, caches and memory that others fill do. Run ``--clock wall`` alone.

    python benchmarks/compression/structure.py --part kernel --save     # and decode: timings, one minute each
    python benchmarks/compression/structure.py --part sparse --save     # and slice, tune, prune, puzzle, core
    python benchmarks/compression/structure.py --part prune --model wb-1m --steps 2   # a look in seconds
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from workbench.structure import (
    calibrating,
    checkpoint,
    importance,
    judging,
    masks,
    pruning,
    puzzle,
    recovery,
    shrinking,
    slicing,
)

RESULTS = Path(__file__).parent / "results" / "structure.json"
MODEL = "wb-14m"
ROUNDS, STEPS = 7, 30


def cuts(config: Any) -> tuple[tuple[str, shrinking.Target], ...]:
    """Half of the neurons; a quarter fewer layers."""
    ffn, layers = config.intermediate_size // 16 * 8, max(1, 3 * config.num_hidden_layers // 4)
    return (("half of the neurons", shrinking.Target(ffn=ffn)),
            (f"{layers} of {config.num_hidden_layers} layers", shrinking.Target(layers=layers)))


class Case:
    """The bundled model, its calibration text and its held-out windows."""

    def __init__(self, source: str) -> None:
        self.model, self.folder = checkpoint.read(source)
        self.calibration = calibrating.windows(self.folder, self.model.config, 32, 256)
        self.held = judging.held_out(self.folder, self.model.config, 16)
        self.base = judging.judge(self.model, self.held)

    def row(self, name: str, made: Any, **more: Any) -> dict[str, Any]:
        found = judging.judge(made, self.held, self.model)
        row = {"name": name, "loss": found.loss, "se": found.se, "kl": found.kl, "of": self.base.loss,
               "parameters": judging.parameters(made), **more}
        print(json.dumps(row), flush=True)
        return row


def sparse(case: Case) -> list[dict[str, Any]]:
    """One-shot pruning of every matrix of the layers."""
    rows = []
    for share in (0.5, 0.7, 0.8):
        plain = copy.deepcopy(case.model)
        for name, p in plain.named_parameters():
            if p.ndim == 2 and "layers" in name:
                p.data.masked_fill_(~masks.magnitude(p, share), 0)
        rows.append(case.row("magnitude", plain, sparsity=share))
        began = time.monotonic()
        made, _ = pruning.prune_model(case.model, case.calibration, share)
        rows.append(case.row("sparsegpt, refit", made, sparsity=share, seconds=time.monotonic() - began))
    return rows


def tune(case: Case, steps: int) -> list[dict[str, Any]]:
    """Fine-tuning with the zeros held: which loss gets most of 70 % sparsity back in the same steps."""
    start, kept = pruning.prune_model(case.model, case.calibration, 0.7)
    text = calibrating.windows(case.folder, case.model.config, steps * 4, 256, seed=1)
    rows = [case.row("sparsegpt, refit", start, sparsity=0.7, steps=0)]
    for name, losses in (("ce", {"ce": 1.0, "kl": 0.0}), ("kl", {"kl": 1.0}),
                         ("ce + squarehead", {"ce": 1.0, "kl": 0.0, "square": 1.0}),
                         ("kl + squarehead", {"kl": 1.0, "square": 1.0})):
        student, began = copy.deepcopy(start), time.monotonic()
        recovery.recover(student, case.model, text, recovery.Recovery(steps, 4, 3e-4, **losses), kept)
        rows.append(case.row(name, student, sparsity=0.7, steps=steps, seconds=time.monotonic() - began))
    return rows


def slice_(case: Case) -> list[dict[str, Any]]:
    rows = []
    for share in (0.0, 0.1, 0.2, 0.3):
        began = time.monotonic()
        made = slicing.slice_model(case.model, case.calibration, share)
        rows.append(case.row("slicegpt", made.model, share=share, width=made.width,
                             energy=min(made.energy), seconds=time.monotonic() - began))
    return rows


def prune(case: Case, steps: int) -> list[dict[str, Any]]:
    """Half of the neurons, or two layers fewer: cut, then distilled."""
    found = importance.measure(case.model, case.calibration)
    text = calibrating.windows(case.folder, case.model.config, steps * 4, 256, seed=1)
    rows = []
    for name, target in cuts(case.model.config):
        student = shrinking.shrink(case.model, shrinking.choose(case.model.config, found, target))
        rows.append(case.row(f"{name}, cut", student, steps=0))
        began = time.monotonic()
        recovery.recover(student, case.model, text, recovery.Recovery(steps, 4, 3e-4))
        rows.append(case.row(f"{name}, distilled", student, steps=steps, seconds=time.monotonic() - began))
    return rows


def puzzle_(case: Case) -> list[dict[str, Any]]:
    """The same memory: chosen blocks against the same share of neurons in every layer, nothing trained."""
    scoring = calibrating.windows(case.folder, case.model.config, 8, 256, seed=2)
    began = time.monotonic()
    library = puzzle.build_library(case.model, case.calibration, scoring, context=512)
    spent, full, rows = time.monotonic() - began, library.full(), []
    for memory in (0.9, 0.75, 0.6):
        built = puzzle.assemble(library, puzzle.search(library, memory, 10.0), scoring)
        rows.append(case.row("puzzle", built.model, memory=memory, predicted=built.predicted,
                             assembled=built.kl, plan=[[p["attention"], p["ffn"]] for p in built.plan],
                             library_seconds=spent))
    for pick, share in enumerate((1.0, 0.75, 0.5, 0.25)):
        picks = [0 if i % 2 == 0 else pick for i in range(len(library.choices))]
        costs = sum(c[p].costs["bytes"] for c, p in zip(library.choices, picks, strict=True))
        uniform = puzzle.Solution(tuple(picks), 0.0, {})
        made = puzzle.assemble(library, uniform, scoring).model
        rows.append(case.row("the same neurons in every layer", made, share=share,
                             memory=costs / full["bytes"]))
    return rows


def core(case: Case) -> list[dict[str, Any]]:
    """Loss of a window's second half with the neurons that its first half fixed."""
    from workbench.runtime.core_neurons import RANKINGS, Ranker

    layers, half, rows = case.model.model.layers, case.held.shape[1] // 2, []
    for ranking in RANKINGS:
        for share in (0.8, 0.6, 0.4):
            losses = []
            for ids in case.held.split(1):
                ranker = Ranker(list(layers), ranking)
                with ranker.watching(), torch.no_grad():
                    case.model(ids[:, :half])
                gone = [torch.ones(c.numel(), dtype=torch.bool) for c in ranker.scores]
                for g, kept in zip(gone, ranker.cores(share), strict=True):
                    g[kept] = False
                losses.append(_silenced(case.model, layers, gone, ids, half))
            row = {"name": ranking, "share": share, "loss": statistics.mean(losses),
                   "se": statistics.stdev(losses) / len(losses) ** 0.5}
            print(json.dumps(row), flush=True)
            rows.append(row)
    none = [torch.zeros(case.model.config.intermediate_size, dtype=torch.bool)] * len(layers)
    whole = [_silenced(case.model, layers, none, ids, half) for ids in case.held.split(1)]
    return [{"name": "all neurons", "share": 1.0, "loss": statistics.mean(whole)}, *rows]


def _silenced(model: Any, layers: Any, gone: list[torch.Tensor], ids: torch.Tensor, half: int) -> float:
    """Behind the first half, neurons that are gone give nothing."""
    def hook(where: torch.Tensor) -> Callable[..., Any]:
        def enter(module: Any, args: Any) -> Any:
            a = args[0].clone()
            a[:, half:, where] = 0
            return (a,)
        return enter

    hooks = [layer.mlp.down_proj.register_forward_pre_hook(hook(g))
             for layer, g in zip(layers, gone, strict=True)]
    try:
        with torch.no_grad():
            logits = model(ids).logits[0, half:-1]
    finally:
        for h in hooks:
            h.remove()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, half + 1:]))


def kernel(source: str, rounds: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """Sparse against dense bfloat16 products, both of the native library, decode rows."""
    from workbench.kernels.native import linear
    from workbench.kernels.sparse_linear import native, packing

    rows = []
    for n, k in ((2048, 2048), (5632, 2048), (2048, 5632)):
        base = [torch.randn(n, k).bfloat16() for _ in range(max(1, int(200e6 / (2 * n * k))))]
        dense = [linear.dense(w) for w in base]
        for share in (0.5, 0.7, 0.8, 0.9):
            packed = [packing.pack(w.masked_fill(torch.rand(n, k) < share, 0)) for w in base]
            stored = [native.describe(v, i, n, k) for v, i in packed]
            size = sum(v.numel() * 2 + i.numel() * 4 for v, i in packed) / (2 * n * k * len(base))
            for m in (1, 4, 8):
                x, pairs = torch.randn(m, k).bfloat16(), []
                for _ in range(rounds):
                    times = []
                    for which in (dense, stored):
                        began = clock()
                        for w in which:
                            linear.matmul(x, w)
                        times.append((clock() - began) / len(base))
                    pairs.append(times)
                rows.append({"rows": n, "columns": k, "sparsity": share, "m": m, "bytes_ratio": size,
                             "dense_us": statistics.median(p[0] for p in pairs) * 1e6,
                             "speedup": statistics.median(p[0] / p[1] for p in pairs)})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def decode(source: str, rounds: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """Steps per second of whole models against the original, both in the workbench's own loop."""
    from workbench.settings import Settings

    base, rows = Settings().with_({"model": source, "compute.threads": 1, "limits.max_new_tokens": 48,
                                   "limits.stop_at_eos": False}), []
    with tempfile.TemporaryDirectory() as folder:
        model, place = checkpoint.read(source)
        text = calibrating.windows(place, model.config, 16, 128)
        found = importance.measure(model, text)
        ways: dict[str, dict[str, Any]] = {
            "core neurons, 40 %": {"decoding": "core_neurons(share=0.4)"},
            "sparse 70 %": {"weights": "sparse(sparsity=0.7,method=magnitude)"}}
        for name, target in cuts(model.config):
            made = shrinking.shrink(model, shrinking.choose(model.config, found, target))
            ways[name] = {"model": str(checkpoint.write(made, place, Path(folder) / name, {}))}
        for share in (0.0, 0.1, 0.2, 0.3):
            made = slicing.slice_model(model, text, share).model
            to = Path(folder) / f"s{share}"
            ways[f"sliced {share:.0%}"] = {"model": str(checkpoint.write(made, place, to, {}))}
        for name, change in ways.items():
            rows.append({"name": name, **_against(base, base.with_(change), rounds, clock)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _against(first: Any, second: Any, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    from workbench.events import Phase
    from workbench.runtime import load

    models = [load(s, lambda e: None, lambda: False) for s in (first, second)]
    prompt, pairs = "def mean(values):\n    total = 0\n    for value in values:\n", []
    try:
        for _ in range(rounds):
            times = []
            for model, settings in zip(models, (first, second), strict=True):
                began = clock()
                seen: list[Any] = []
                model.generate([prompt], settings, seen.append, lambda: False,
                               clock=lambda began=began: clock() - began)
                steps = [e.end_s - e.start_s for e in seen if isinstance(e, Phase) and e.phase == "decode"]
                times.append(statistics.median(steps))
            pairs.append(times)
        size = [m.loaded.weights_bytes for m in models]
        how = [m.effective()["compute.executor"].effective if "compute.executor" in m.effective() else
               m.forward.describe() for m in models]
    finally:
        for model in models:
            model.close()
    return {"speedup": statistics.median(a / b for a, b in pairs), "step_ms": statistics.median(
        b for _, b in pairs) * 1e3, "bytes_ratio": size[1] / size[0], "executors": how}


PARTS: dict[str, Any] = {"kernel": kernel, "decode": decode, "sparse": sparse, "tune": tune, "slice": slice_,
                         "prune": prune, "puzzle": puzzle_, "core": core}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", action="append", choices=sorted(PARTS), required=True)
    parser.add_argument("--model", default=MODEL, help="bundled name or folder, Llama-style")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of kernel and decode")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of tune and prune")
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS.name}, other parts stay")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    case = None
    for part in given.part:
        if part in ("kernel", "decode"):
            clock = time.thread_time if given.clock == "cpu" else time.perf_counter
            rows = PARTS[part](given.model, given.rounds, clock)
        else:
            case = case or Case(given.model)
            rows = PARTS[part](case, *([given.steps] if part in ("tune", "prune") else []))
        if given.save:
            whole = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
            whole[part] = {"model": given.model, "threads": given.threads, "torch": torch.__version__,
                           **({"clock": given.clock} if part in ("kernel", "decode") else {}),
                           "cpu": platform.processor() or platform.machine(), "rows": rows}
            RESULTS.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
