"""Every lossless method on all of 200 prompts of eight kinds: identical, near-ties, bugs.

    python benchmarks/decoding/identity.py [--weights bf16 fp32] [--temperature 0 0.8] [--count 200]
        [--methods NAME ...] [--out FILE]

Finished parts are kept in FILE as they come; a second call does what is missing. Ends with 1 where a bug
was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from workbench.runtime import load
from workbench.settings import Settings
from workbench.speculation import prompts
from workbench.speculation.identity import Identity, lossless
from workbench.store.environment import collect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--weights", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--temperature", nargs="+", type=float, default=[0.0, 0.8])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--methods", nargs="+", default=lossless())
    parser.add_argument("--out", type=Path,
                        default=Path(__file__).parent / "results" / "identity.json")
    given = parser.parse_args()
    about = {"model": given.model, "count": given.count, "new": given.new}
    found = json.loads(given.out.read_text("utf-8")) if given.out.is_file() else {}
    if {k: found.get(k) for k in about} != about:
        found = {**about, "environment": collect(), "cases": {}}
    texts = prompts.generated(given.count)
    for weights in given.weights:
        base = Settings().with_({
            "model.source": given.model, "weights": weights, "limits.max_new_tokens": given.new, "seed": 3,
            "telemetry.preset": "off", "telemetry.power": False})
        model = load(base, lambda event: None)
        print(f"{weights}: {model.forward.describe()}", flush=True)
        for temperature in given.temperature:
            case = found["cases"].setdefault(f"{weights}, temperature {temperature:g}", {})
            compared = Identity(model, base.with_({"sampling.temperature": temperature}))
            for method in [m for m in given.methods if m not in case or case[m]["skipped"]]:
                case[method] = {**compared.run(method, texts).to_dict(), "executor": model.forward.describe()}
                given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
                o = case[method]
                print(f"{weights} T={temperature:g} {method}: " + (o["skipped"] or (
                    f"{o['same']}/{o['prompts']} identical, {o['near_ties']} near-ties, {o['bugs']} bugs, "
                    f"{o['accepted']} of {o['drafted']} drafts kept")), flush=True)
        model.close()
    sys.exit(any(o["bugs"] for case in found["cases"].values() for o in case.values()))


if __name__ == "__main__":
    main()
