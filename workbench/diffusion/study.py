"""Every canvas decoder on held-out list tasks: share of valid answers against places per forward.

The tasks are those of ParallelBench (arXiv:2510.04767): where the words of an answer depend on each other,
quality must fall as more of them are fixed together; where they do not, it need not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.diffusion.canvas import fill
from workbench.errors import Cancelled, SettingsError, one_of
from workbench.zoo import list_tasks as tasks

if TYPE_CHECKING:
    from workbench.diffusion.model import DiffusionModel

#: One place per forward: what the others are compared with.
CAREFUL = "diffusion_static"
DECODERS = (CAREFUL, "diffusion_static(count=2)", "diffusion_static(count=4)",
            "diffusion_threshold(tau=0.95)", "diffusion_threshold", "diffusion_threshold(tau=0.7)",
            "diffusion_threshold(tau=0.5)", "diffusion_localleap", "diffusion_credit",
            "diffusion_entropy", "diffusion_learn2pd", "diffusion_learn2pd(end=predicted)",
            "diffusion_freedave", "diffusion_freedave(drafts=8)")


def method(name: str) -> Any:
    """The decoder of this name. Raises SettingsError for a decoding that fills no canvas."""
    from workbench.techniques.base import parse
    from workbench.techniques.decoding._diffusion import Diffusion

    found = parse("decoding", CAREFUL if name == "plain" else name)
    if not isinstance(found, Diffusion):
        raise SettingsError(f"{name} writes from left to right and fills no canvas; name diffusion_ methods")
    return found


def measure(model: DiffusionModel, decoder: str, task: str, examples: int,
            careful: Sequence[list[int]] | None = None,
            cancelled: Callable[[], bool] = lambda: False) -> tuple[dict[str, Any], list[list[int]]]:
    """(the fields of ``analysis.parallelism.Point``, the texts as ids). ``careful``: the texts of one place
    per forward (None: these are they). Raises Cancelled."""
    right = tokens = forwards = rows = 0
    texts: list[list[int]] = []
    chosen = method(decoder)
    for seed in range(examples):
        given = tasks.example(task, seed)
        found = fill(model, model.encode(" ".join(given.prompt)), chosen, cancelled=cancelled)
        right += tasks.right(given, model.decode(found.tokens).split())
        tokens += len(found.tokens) + 1
        forwards, rows = forwards + found.forwards, rows + found.rows
        texts.append(found.tokens)
    same = sum(a == b for a, b in zip(texts, careful or texts, strict=True))
    return {"task": task, "decoder": decoder, "examples": examples, "right": right, "tokens": tokens,
            "forwards": forwards, "rows": rows, "same": same}, texts


def study(model: DiffusionModel, name: str, *, decoders: Sequence[str] = DECODERS,
          wanted: Sequence[str] = tasks.TASKS, examples: int = 60,
          told: Callable[[int, int, str], None] = lambda done, total, what: None,
          cancelled: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """``analysis.parallelism.Study`` as a dict; ``name`` is the model's. A cancelled study holds what was
    done. ``told(done, total, what)``. Raises SettingsError for tasks and decoders that do not exist."""
    for task in wanted:
        if task not in tasks.TASKS:
            raise SettingsError(one_of("task", task, list(tasks.TASKS)))
    every = list(dict.fromkeys([CAREFUL, *decoders]))
    for decoder in every:
        method(decoder)
    points: list[dict[str, Any]] = []
    total = len(wanted) * len(every)
    try:
        for task in wanted:
            careful: list[list[int]] | None = None
            for decoder in every:
                told(len(points), total, f"{task}: {decoder}")
                point, texts = measure(model, decoder, task, examples, careful, cancelled)
                careful = careful or texts
                points.append(point)
        told(total, total, "done")
    except Cancelled:
        pass  # what is done is worth having
    return {"model": name, "examples": examples, "points": points,
            "determined": [t for t in wanted if t in tasks.DETERMINED]}
