"""Mixed precision against one scheme everywhere at the same bytes, on the bundled model.

Regime: quality only. Every configuration's exact values are put into the float32 model and scored on the
same held-out tokens (the bundled evaluation documents, windows of 512), so differences are paired. The
error map that the plans follow is measured on calibration text. For every uniform scheme: the plan with at
most its bytes; and, as a control, random mixtures of the same schemes with at most those bytes (greedy
filling in random order). Errors: batch means over blocks of 32 tokens.

    python benchmarks/compression/mixed.py                    # prints a table
    python benchmarks/compression/mixed.py --save             # and writes results/mixed.json
    python benchmarks/compression/mixed.py --save --family "any width"    # one family, the others stay
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench import zoo
from workbench.quality.statistics import mean_and_error
from workbench.sensitivity import plan as plans
from workbench.sensitivity.errors import ErrorMap
from workbench.sensitivity.measure import error_map
from workbench.settings import Settings
from workbench.techniques.weights import Calibrated

WINDOW, RANDOM = 512, 2
FAMILIES = {"rounding to nearest": "int8 int4/group=32 int4/group=64 int4/group=128",
            "GPTQ": "int8 gptq/bits=4/group=32 gptq/bits=4/group=64 gptq/bits=4/group=128 "
                    "gptq/bits=3/group=64 gptq/bits=3/group=128 gptq/bits=2/group=64",
            "any width": "rtn/bits=2/group=64 rtn/bits=3/group=64 int4/group=64 rtn/bits=5/group=64 "
                         "rtn/bits=6/group=64 int8"}


class Values:
    """Exact float32 values of every matrix under every scheme."""

    def __init__(self, settings: Settings, model: Any) -> None:
        self.settings, self.model = settings, model
        self.exact = {n: m.weight.detach().clone() for n, m in model.named_modules()
                      if isinstance(m, torch.nn.Linear) and ".layers." in f".{n}"}
        self._prepared: dict[str, Any] = {}

    def of(self, name: str, scheme: str) -> torch.Tensor:
        if scheme == plans.EXACT:
            return self.exact[name]
        method = plans.scheme(scheme)
        if isinstance(method, Calibrated):
            if scheme not in self._prepared:
                self._prepared[scheme] = method.prepare(self.settings, lambda e: None, None)
            weight = self.exact[name]
            packed = self._prepared[scheme].pack(name, None, weight.device, tuple(weight.shape))
            return packed.dequantize().float()
        module: Any = method.pack(self.exact[name], None)
        return module.dequantize().float()

    def install(self, choice: dict[str, str]) -> None:
        with torch.no_grad():
            for name, scheme in choice.items():
                self.model.get_submodule(name).weight.copy_(self.of(name, scheme))


def score(model: Any, texts: list[torch.Tensor], exact: list[torch.Tensor] | None
          ) -> tuple[np.ndarray, np.ndarray, list[torch.Tensor]]:
    """Per token: negative log-likelihood, KL to ``exact``; and the log-probabilities."""
    nll, kl, kept = [], [], []
    with torch.inference_mode():
        for index, ids in enumerate(texts):
            q = model(ids[None]).logits[0, :-1].float().log_softmax(-1)
            nll.append(-q.gather(1, ids[1:, None])[:, 0])
            if exact is None:
                kept.append(q)
            else:
                p = exact[index]
                kl.append((p.exp() * (p - q)).sum(-1, dtype=torch.float64).clamp_min(0))
    found = torch.cat(nll).double().numpy()
    return found, torch.cat(kl).numpy() if kl else np.zeros_like(found), kept


def random_mixture(found: ErrorMap, limit: int, seed: int) -> dict[str, str]:
    """Matrices in random order, each the largest scheme that still leaves the smallest for the rest."""
    by: dict[str, list[tuple[int, str]]] = {}
    for c in found.cells:
        by.setdefault(c.module, []).append((c.nbytes, plans.short(c.method)))
    least = {m: min(v)[0] for m, v in by.items()}
    left, order = limit - sum(least.values()), list(by)
    random.Random(seed).shuffle(order)
    choice = {}
    for module in order:
        fits = [v for v in by[module] if v[0] - least[module] <= left]
        nbytes, name = random.Random(f"{seed}{module}").choice(fits)
        left -= nbytes - least[module]
        choice[module] = name
    return {m: choice[m] for m in by}


def texts_of(name: str) -> list[torch.Tensor]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(zoo.path(name))
    found = []
    for document in zoo.evaluation_text():
        found += [w for w in torch.tensor(tokenizer(document.text)["input_ids"]).split(WINDOW) if len(w) > 32]
    return found


def rows(name: str, tokens: int, families: list[str]) -> list[dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    settings = Settings().with_({"model.source": name})
    model = AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32).eval()
    values, texts = Values(settings, model), texts_of(name)
    base, _, exact = score(model, texts, None)
    found: list[dict[str, Any]] = []
    for family in families:
        methods = FAMILIES[family]
        began = time.perf_counter()
        measured = error_map(settings, tuple(str(plans.scheme(m)) for m in methods.split()), lambda e: None,
                             tokens=tokens)
        print(f"# {family}: error map in {time.perf_counter() - began:.0f} s", flush=True)
        for method in measured.methods:
            bits, sum_kl = plans.uniform(measured, method)
            limit = sum(c.nbytes for c in measured.of(method))
            best = plans.choose(measured, bits=bits)
            tried = [("uniform", dict.fromkeys(measured.modules, plans.short(method)), sum_kl),
                     ("plan", best.choice, best.kl)]
            tried += [(f"random {i}", random_mixture(measured, limit, i), None) for i in range(RANDOM)]
            for label, choice, predicted in tried:
                values.install(choice)
                nll, kl, _ = score(model, texts, exact)
                found.append(row(family, plans.short(method), label,
                                 best.bits if label == "plan" else bits, predicted, nll, kl, base))
                print(show(found[-1]), flush=True)
    return found


def row(family: str, at: str, label: str, bits: float, predicted: float | None,
        nll: np.ndarray, kl: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    loss, loss_se = mean_and_error(nll - base)
    mean, se = mean_and_error(kl)
    return {"family": family, "same_bytes_as": at, "mixture": label, "bits": bits,
            "perplexity": float(np.exp(nll.mean())), "loss_gap": loss, "loss_gap_se": loss_se, "kl": mean,
            "kl_se": se, "kl_p99": float(np.quantile(kl, 0.99)), "kl_predicted": predicted,
            "tokens": len(nll)}


def show(r: dict[str, Any]) -> str:
    predicted = "" if r["kl_predicted"] is None else f"(predicted {r['kl_predicted']:.2e})"
    return (f"{r['same_bytes_as']:24} {r['mixture']:9} {r['bits']:6.3f} bits  perplexity "
            f"{r['perplexity']:.4f}  loss {r['loss_gap']:+.5f} ± {r['loss_gap_se']:.5f}  KL {r['kl']:.2e} "
            f"± {r['kl_se']:.1e} {predicted}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(FAMILIES), help="one of them; all by default")
    parser.add_argument("--model", default="wb-14m")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    families = [given.family] if given.family else list(FAMILIES)
    found = rows(given.model, given.tokens, families)
    if given.save:
        path = Path(__file__).parent / "results" / "mixed.json"
        path.parent.mkdir(exist_ok=True)
        before = json.loads(path.read_text())["rows"] if path.is_file() else []
        kept = [r for r in before if r["family"] not in families]
        path.write_text(json.dumps({"model": given.model, "torch": torch.__version__,
                                    "map_tokens": given.tokens, "python": platform.python_version(),
                                    "rows": kept + found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
