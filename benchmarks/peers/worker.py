"""One engine in one process, answering one measurement at a time over its standard streams.

    python -m benchmarks.peers.worker '{"engine": ..., "bits": ..., "folder": ..., "threads": ...}'

Reads one JSON line per measurement, ``{"prompt": n, "new": n}``, and writes one with ``prefill_s decode_s``:
seconds from the prompt to the first token and from the first token to the last. Started by
``python -m benchmarks.peers``; a process that nobody asks sleeps, so that interleaved ones are alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SYMMETRIC = {"bf16": "bf16", "int8": "int8", "int4": "int4(group=32, symmetric=true)"}
OURS = {"bf16": "bf16", "int8": "int8(head=true)", "int4": "int4(group=32, symmetric=true, head=true)"}


def settings(asked: dict[str, Any]) -> Any:
    """The workbench's settings of one engine: the same driver as a user's runs have."""
    from benchmarks.shapes import checkpoint, gguf_file
    from workbench.settings import Settings

    engine, bits, folder = asked["engine"], asked["bits"], Path(asked["folder"])
    if engine in ("llama_cpp", "openvino"):
        kind = {"bf16": "f16", "int8": "q8_0", "int4": "q4_0"}[bits]
        source = gguf_file(asked["shape"], folder, kind)
    else:
        source = checkpoint(asked["shape"], folder)
    weights = (OURS if engine.startswith("native") else SYMMETRIC)[bits]
    if engine in ("llama_cpp", "openvino"):
        weights = "bf16"  # the file's own blocks
    return Settings().with_({
        "model.source": str(source), "weights": weights, "backend": engine.removesuffix("_a8"),
        **({"weights.activations": "int8"} if engine.endswith("_a8") else {}),
        "compute.device": "cpu", "compute.threads": asked["threads"], "telemetry.preset": "off",
        "telemetry.power": False, "limits.stop_at_eos": False})


def open_engine(asked: dict[str, Any]) -> tuple[Any, Any]:
    import os

    if asked["engine"].startswith("native"):  # as the engine's process has it; peers keep their own defaults
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from workbench import backends

    chosen = settings(asked)
    return backends.open_model(chosen, lambda event: None), chosen


class Given:
    """Encodes a prompt to the number of tokens that it names; all engines read the same ids.

    Every prompt begins differently, so that no engine finds it in a cache of prefixes."""

    def __init__(self, tokenizer: Any, vocab: int) -> None:
        self._tokenizer, self._vocab, self._asked = tokenizer, vocab, 0

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        self._asked += 1
        return {"input_ids": [3 + (7919 * (i + 131 * self._asked)) % (self._vocab - 3)
                              for i in range(int(text))]}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def measure(model: Any, chosen: Any, prompt: int, new: int) -> dict[str, Any]:
    """Times as the events say them: the same stamps that a run's metrics come from."""
    from workbench.events import Token

    stamps: list[float] = []

    def emit(event: Any) -> None:
        if isinstance(event, Token):
            stamps.append(event.t_s)

    wanted = chosen.with_({"limits.max_new_tokens": new})
    model.generate([str(prompt)], wanted, emit, lambda: False)
    said = model.effective()
    return {"prefill_s": stamps[0], "decode_s": stamps[-1] - stamps[0], "tokens": len(stamps),
            "weights": said["weights"].effective, "backend": said["backend"].effective,
            "executor": said["executor"].effective, "note": said["backend"].reason}


def main() -> None:
    asked = json.loads(sys.argv[1])
    try:
        model, chosen = open_engine(asked)
        model.tokenizer = Given(model.tokenizer, model.shape.vocab)
        measure(model, chosen, 16, 4)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(model, chosen, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
