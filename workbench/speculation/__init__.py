"""Is speculation right, is it fast, and which one is best here: measured with a loaded model.

    from workbench import speculation
    speculation.search("bundled", prompts=["def f("])      # ranked methods and lengths for this machine
    speculation.check("bundled", decoding="token_recycling")   # every difference: near-tie or bug
    speculation.check_run(run)                                 # the same for a recorded run
    speculation.benchmark("bundled", methods=["prompt_lookup"])   # per method and kind of prompt

``prompts`` makes texts of several kinds, ``measuring`` decodes one and counts, ``equality`` compares an
output with the plain target's own choices, ``benchmarking`` and ``searching`` repeat that for many. All of
them load the model into this process, can be cancelled, and tell how far they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.speculation.api import benchmark as benchmark
    from workbench.speculation.api import check as check
    from workbench.speculation.api import check_run as check_run
    from workbench.speculation.api import search as search

__all__ = ["benchmark", "check", "check_run", "search"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from workbench.speculation import api

        return getattr(api, name)
    raise AttributeError(f"module 'workbench.speculation' has no attribute {name!r}")
