"""Peak memory of GPTQ on a model of any size, against one layer's working set.

Regime: one process, the checkpoint on disk, bfloat16 layers above 200 M parameters. working set: what has
to be in memory together at the worst moment of one layer, counted from shapes alone (the layer's weights,
the second moments of one input and their factor, the matrix being rounded with its codes, one batch of
states). peak: the process's high-water mark minus what it held after calibrating the smallest bundled model
(imports, code, the libraries' buffers) and opening this model's empty tree. Stops after ``--layers``
layers: every layer has the same shape.

    python benchmarks/compression/memory.py /path/to/model --layers 2 --save
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from workbench.calibration import prepared, text, walk
from workbench.calibration.quantizer import Quantizer
from workbench.calibration.recipe import Recipe
from workbench.calibration.working_set import working_set
from workbench.errors import Cancelled
from workbench.events import Progress
from workbench.runtime.loading import return_freed, skeleton
from workbench.runtime.sources import resolve
from workbench.runtime.tokens import tokenizer_for
from workbench.settings import Settings
from workbench.shape import from_config
from workbench.units import format_bytes


def status(key: str) -> int:
    """Bytes that the kernel reports for this process."""
    found = re.search(key + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def warm_up(dtype: torch.dtype) -> None:
    """The whole way with the smallest model, so that code, imports and the libraries' buffers are there."""
    settings, recipe = Settings().with_({"model.source": "wb-1m"}), Recipe(group=32, samples=4, length=64)
    opened = resolve(settings.model)
    tokenizer, _ = tokenizer_for(opened.folder, int(opened.config["vocab_size"]), False, False)
    samples = text.draw(tokenizer, "bundled", 4, 64, 0, int(opened.config["vocab_size"]))
    with tempfile.TemporaryDirectory() as folder:
        walk.walk(settings, samples, Quantizer(recipe), Path(folder), {}, lambda e: None, dtype=dtype)


def measure(source: str, layers: int, recipe: Recipe) -> dict[str, Any]:
    settings = Settings().with_({"model.source": source})
    opened = resolve(settings.model)
    shape, vocab = from_config(opened.config), int(opened.config["vocab_size"])
    tokenizer, _ = tokenizer_for(opened.folder, vocab, opened.random, False)
    samples = text.draw(tokenizer, recipe.text, recipe.samples, recipe.length, recipe.seed, vocab)
    dtype = prepared.dtype_for(settings)
    warm_up(dtype)
    skeleton(opened, dtype, False)
    gc.collect()
    return_freed(torch.device("cpu"))
    folder, seen = Path(tempfile.mkdtemp()), [0.0]
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before, began, processor = status("VmRSS"), time.perf_counter(), time.process_time()

    def emit(event: Any) -> None:
        if isinstance(event, Progress):
            seen[0] = event.done
            print(f"{time.perf_counter() - began:7.1f} s  {event.detail}  peak "
                  f"{format_bytes(status('VmHWM') - before)}", flush=True)

    try:
        walk.walk(settings, samples, Quantizer(recipe, shape.head_dim), folder, {}, emit,
                  lambda: seen[0] >= layers, dtype)
    except Cancelled:
        pass
    finally:
        shutil.rmtree(folder)
    peak = status("VmHWM") - before
    need = working_set(shape, recipe, dtype)
    return {"model": Path(source).name, "parameters": shape.parameters, "layers_done": layers,
            "of": shape.layers, "samples": recipe.samples, "length": recipe.length,
            "peak_bytes": peak, "working_set_bytes": need.total, "parts": need.parts,
            "ratio": round(peak / need.total, 3), "checkpoint_bytes": 2 * shape.parameters,
            "seconds_wall": round(time.perf_counter() - began, 1),
            "seconds_processor": round(time.process_time() - processor, 1),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
            "python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    found = measure(args.model, args.layers, Recipe(bits=args.bits, samples=args.samples, length=args.length))
    print(json.dumps(found, indent=1))
    if args.save:
        path = Path(__file__).parent / "results" / "memory.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
