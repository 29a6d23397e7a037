"""Any ``torch.nn.Module`` under the workbench's eyes: the same events, so the same views.

    import workbench as wb
    run = wb.profile(module, inputs)                     # recorded in the store like every run
    fast = wb.profile(module.bfloat16(), inputs, baseline=run)

In this process, no engine. Importing this costs nothing; torch is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.store import Run, Store

__all__ = ["profile"]


def profile(module: Any, inputs: Any, *, steps: int = 20, warmup: int = 3, windows: int = 3,
            name: str = "", baseline: Run | str | None = None, grad: bool = False,
            power: bool = True, store: Store | None = None,
            progress: Callable[[str, float], None] | None = None,
            cancelled: Callable[[], bool] = lambda: False) -> Run:
    """Run ``module(inputs)`` and record what it did; returns the finished run.

    ``inputs``: a tensor, a tuple or list (positional), a dict (keywords), or a function without
    arguments that makes one of these for every forward (its time is not counted). ``steps``:
    forwards that are timed, with nothing else going on; ``windows``: forwards after them under the
    profiler, one per window. ``grad``: keep autograd on (forces by differentiation, training
    steps). ``baseline``: a run (or its id) to compare with, said in ``run.record`` and in the
    panels. ``progress(what, share)`` is called between forwards.

    The module runs as it is: its mode, dtype and device are not changed. Raises SettingsError with
    one sentence for what cannot run, Cancelled when ``cancelled()`` says so or on Ctrl-C (the run so
    far is kept)."""
    from workbench.profiling.session import Plan, record

    return record(module, inputs, Plan(steps, warmup, windows, name, grad, power), baseline, store,
                  progress, cancelled)
