"""Write the folder of a bundled model: bf16 weights, tokenizer, manifest, thinned log.

Files are replaced one by one with ``os.replace``, so a reader never sees half a file. The model card
is written by `workbench.zoo.recipes.card` once the gates are measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

MODELS = Path(__file__).parent.parent / "models"

#: Lines kept of a training log.
LOG_LINES = 120


def publish(model: Any, tokenizer_at: Path, folder: Path,
            manifest: dict[str, Any], log: Path) -> None:
    """Save ``model`` in bfloat16 as an ordinary transformers folder."""
    import torch
    from transformers import GenerationConfig

    from workbench.zoo.recipes import tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".publish-"))
    try:
        model.generation_config = GenerationConfig(bos_token_id=tokenizer.BOS, do_sample=False,
                                                   eos_token_id=tokenizer.EOS,
                                                   pad_token_id=tokenizer.PAD)
        model.to(torch.bfloat16).save_pretrained(temporary)
        tokenizer.save(tokenizer.load(tokenizer_at), temporary)
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        (temporary / "training_log.jsonl").write_text(thinned(log), "utf-8")
        for file in temporary.iterdir():
            file.chmod(0o644)
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary)


def environment(threads: str) -> dict[str, Any]:
    """What the weights depend on besides the recipe."""
    import torch
    import transformers

    return {"python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__, "machine": platform.machine(),
            "threads": threads}


def data_facts(streams: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Tokens and sha256 of each packed stream."""
    return {name: {"tokens": len(stream),
                   "sha256": hashlib.sha256(np.ascontiguousarray(stream).tobytes()).hexdigest()}
            for name, stream in streams.items()}


def thinned(log: Path) -> str:
    """About `LOG_LINES` lines of a log, the last always; of a repeated step the last one counts."""
    rows = {}
    for line in log.read_text("utf-8").splitlines():
        rows[json.loads(line)["step"]] = line
    steps = sorted(rows)
    stride = max(1, len(steps) // LOG_LINES)
    kept = sorted({*steps[::stride], steps[-1]})
    return "".join(rows[step] + "\n" for step in kept)
