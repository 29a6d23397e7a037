"""Does this build of llama.cpp survive its repacked kernels here? Asked in a process that may crash.

Builds for AMX were seen to end with a segmentation fault in the first decode of block formats on a
virtual machine (llama-cpp-python 0.3.36). A crash must not take the engine with it, so the first use of
a block format on such a build decodes six tokens in a child; the answer is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_TIMEOUT_S = 180


def survives(path: Path, kind: str, title: str) -> bool:
    """Whether a child process could decode ``path`` with the repacked kernels."""
    from workbench.machine import home, this_machine

    key = "|".join((title, this_machine().cpu, kind, os.environ.get("LD_PRELOAD", "")))
    kept = home() / "cache" / "llama_probe.json"
    try:
        known: dict[str, bool] = json.loads(kept.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        try:
            done = subprocess.run([sys.executable, "-m", "workbench.backends.llama_probe", str(path)],
                                  capture_output=True, timeout=_TIMEOUT_S, check=False)
            known[key] = done.returncode == 0
        except subprocess.TimeoutExpired:
            known[key] = False
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(known, indent=1))
    return known[key]


def decode(path: str) -> int:
    """Six tokens through the model; llama.cpp's own code (0: done)."""
    import llama_cpp as c

    model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
    how: Any = c.llama_context_default_params()
    how.n_ctx = how.n_batch = how.n_ubatch = 64
    context = c.llama_init_from_model(model, how)
    batch = c.llama_batch_init(64, 0, 1)
    batch.n_tokens = 6
    for i in range(6):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = i + 1, i, 1, 0
        batch.logits[i] = i == 5
    code: int = c.llama_decode(context, batch)
    return code


if __name__ == "__main__":
    sys.exit(decode(sys.argv[1]))
