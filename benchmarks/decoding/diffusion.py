"""Quality against parallelism of every canvas decoder, task by task, beside the closed forms.

    python benchmarks/decoding/diffusion.py [--examples 60] [--out FILE]

Writes what the panel "Quality against parallelism" shows for the bundled model: on held-out examples of the
list tasks (arXiv:2510.04767) the valid answers and the tokens per forward, a text's end included. Printed
beside it: what independent draws from perfect marginals would reach at once on five words. `workbench bench
diffusion` is the same for any model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from workbench import zoo
from workbench.analysis.parallelism import FILE, Study
from workbench.cli.bench_diffusion import show
from workbench.diffusion.model import open_model
from workbench.diffusion.study import study
from workbench.store.environment import collect
from workbench.zoo import list_tasks as tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--model", default=zoo.DIFFUSION)
    parser.add_argument("--out", type=Path, default=zoo.path(zoo.DIFFUSION) / FILE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = study(open_model(given.model), Path(given.model).name, examples=given.examples,
                  told=lambda done, total, what: print(f"{done} of {total}: {what}", end="\r", flush=True))
    found["environment"] = collect()
    given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    show(Study.from_dict(found))
    for task in ("copy", "replace-random", "shuffle"):
        print(f"{task}: at once, from perfect marginals, {tasks.one_shot(task, 5):.3f}")


if __name__ == "__main__":
    main()
