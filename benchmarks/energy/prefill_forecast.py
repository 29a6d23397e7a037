"""Is the forecast of a prompt's time better with this machine's own matrix products?

    python benchmarks/energy/prefill_forecast.py [--seconds 60] [--json FILE]

Measures products (``workbench power model``) in a home of its own, runs a model whose prompt is products
(a Llama shape of 150 M parameters with random weights) on prompts of several lengths, and compares the
uncorrected forecast of the time to the first token with what was measured, once from the ceilings alone
and once from the products. Nothing learned from runs is used, so both leave out what is neither product
nor dispatch (attention, norms, the engine's own time).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

LENGTHS = (16, 48, 96, 160)
SHAPE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024,
         "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 8,
         "intermediate_size": 2816, "vocab_size": 4096, "max_position_embeddings": 1024,
         "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "dtype": "bfloat16",
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["WORKBENCH_HOME"] = home
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the engine's worker
        result = compare(arguments.seconds)
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def compare(seconds: float) -> dict[str, object]:
    import workbench as wb
    from workbench.energy import gemm_fit, gemm_store
    from workbench.forecast.model import raw_times
    from workbench.machine import this_machine

    config = Path(os.environ["WORKBENCH_HOME"]) / "config.json"
    config.write_text(json.dumps(SHAPE))
    session = wb.open(str(config), **{"model.weights": "random", "telemetry.preset": "off"})
    session.measure_machine()
    shape = session.shape
    rows = []
    for words in LENGTHS:
        prompt = " ".join(["the little dog ran to the big house and"] * (words // 8))
        runs = [session.run(prompt, wait=True, max_new_tokens=2) for _ in range(REPEATS + 1)][1:]
        tokens = next(e.prompt_tokens for e in runs[0].events if type(e).__name__ == "RunStarted")
        rows.append((tokens, statistics.median(r.metrics["ttft_s"].value for r in runs)))
    settings = session.settings
    session.close()
    machine = this_machine()
    plain = [raw_times(settings, shape, machine, None, t).ttft_s for t, _ in rows]
    gemm_fit.measure_and_fit(machine, "cpu", 150, seconds)
    assert gemm_store.load(machine) is not None
    better = [raw_times(settings, shape, machine, None, t).ttft_s for t, _ in rows]
    table = [{"prompt_tokens": t, "measured_s": m, "from_ceilings_s": a, "from_products_s": b,
              "error_ceilings": a / m - 1, "error_products": b / m - 1}
             for (t, m), a, b in zip(rows, plain, better, strict=True)]
    return {"machine": machine.cpu, "rows": table,
            "median_abs_error_ceilings": statistics.median(abs(r["error_ceilings"]) for r in table),
            "median_abs_error_products": statistics.median(abs(r["error_products"]) for r in table)}


if __name__ == "__main__":
    main()
