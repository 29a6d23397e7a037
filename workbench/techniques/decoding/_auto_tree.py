"""``tree=auto``: a drafter's tree chosen for this machine, from what was accepted and what rows cost.

The counts of a model and drafter are kept in the workbench's cache, so that the next run starts with the
tree that the last one ended with. Costs are the measured curve, stretched by what verifications really take
in this run (a busy machine, a longer context), and the rest of a step as it was timed. The chosen tree never
changes a text: whatever is drafted, the target decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.techniques.decoding._planner import Acceptance, Curve, Plan, best

if TYPE_CHECKING:
    from workbench.techniques.decoding._trees import Template

#: Steps between two looks at the tree, between two writings of the counts, and steps whose times are kept.
_LOOK, _SAVE, _TIMES = 16, 64, 64
#: A kept count stands for this many observations at most when a run starts: texts differ.
_TRUST = 60.0


class AutoTree:
    """The counts, the costs and the current plan of one drafter.

    ``prior[r]``: the chance of rank r before anything was seen. ``level_s``: seconds of drafting one more
    level, until it was timed. ``most``: nodes at most."""

    def __init__(self, depths: int, prior: Sequence[float], verify: Curve, most: int = 63,
                 level_s: float = 0.0, path: Path | None = None) -> None:
        self.seen = Acceptance(depths, tuple(prior))
        self._verify, self._most, self._path = verify, most, path
        self._level_s = level_s
        self._rest: deque[float] = deque(maxlen=_TIMES)  # seconds of a step besides draft and verification
        self._stretch: deque[float] = deque(maxlen=_TIMES)  # of verifications, against the curve
        self._levels: deque[float] = deque(maxlen=_TIMES)
        self._verified: float | None = None  # when the last verification was over
        self._asked = 0.0  # when the last proposal was ready
        self._rows = 0
        self._steps = 0
        if path is not None:
            self._load(path)
        self.plan = self._best()

    @property
    def template(self) -> Template:
        """The tree to draft now: one node at least, or nothing would be learnt any more."""
        return self.plan.template

    def begin(self) -> None:
        """A step begins."""
        if self._verified is not None:
            self._rest.append(time.perf_counter() - self._verified)
            self._verified = None

    def drafted(self, nodes: int, levels: int = 0, seconds: float = 0.0) -> None:
        """The tree is ready and has ``nodes`` nodes; ``levels`` of them took ``seconds`` to draft."""
        self._asked, self._rows = time.perf_counter(), 1 + nodes
        if levels:
            self._levels.append(seconds / levels)

    def verified(self) -> None:
        """The target has answered."""
        self._verified = time.perf_counter()
        self._stretch.append((self._verified - self._asked) / self._verify(self._rows))

    def count(self, depth: int, ranks: Sequence[int], right: int | None) -> None:
        """As :meth:`Acceptance.count`; depths beyond those that are planned do not count."""
        if depth <= self.seen.depths:
            self.seen.count(depth, ranks, right)

    def end(self) -> None:
        """A step was counted; now and then the tree is chosen anew."""
        self._steps += 1
        if self._steps % _LOOK == 0:
            self.plan = self._best()
        if self._steps % _SAVE == 0:
            self.save()

    def describe(self) -> str:
        """For the report on effective settings."""
        return f"auto: {self.plan.describe()}"

    def _best(self) -> Plan:
        levels, stretch, rest = (statistics.median(seen) if seen else otherwise for seen, otherwise in (
            (self._levels, self._level_s), (self._stretch, 1.0), (self._rest, 0.0)))
        return best(self.seen.chances(), lambda rows: stretch * self._verify(rows) + rest,
                    (lambda depth: levels * depth) if levels else None, self._most, least=1)

    # -- from run to run -----------------------------------------------------------------------------

    def save(self) -> None:
        """Keep the counts for the next run; a disk that cannot take them is no reason to stop."""
        if self._path is None or not self._steps:
            return
        part = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self.seen.to_dict()), encoding="utf-8")
            part.replace(self._path)
        except OSError:
            part.unlink(missing_ok=True)

    def _load(self, path: Path) -> None:
        try:
            fits = self.seen.load(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return
        if fits:
            for hits, tried in zip(self.seen.right, self.seen.tried, strict=True):
                for rank, n in enumerate(tried):
                    share = min(1.0, _TRUST / n) if n else 1.0
                    hits[rank], tried[rank] = hits[rank] * share, n * share


def kept_in(runtime: Any, drafter: str, ranks: int) -> Path:
    """Where the counts of this model, drafter and way of sampling are kept."""
    from workbench.machine import home

    settings = runtime.settings
    about = {"model": settings.model.to_dict(), "weights": settings.weights.to_dict(), "drafter": drafter,
             "ranks": ranks, "greedy": runtime.sampler.greedy}
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Path(home()) / "cache" / "acceptance" / f"{key}.json"


def auto_tree(runtime: Any, drafter: str, prior: Sequence[float], depths: int, most: int = 63,
              level_s: float = 0.0) -> AutoTree:
    """The service for a drafter that starts: costs measured with the loaded model, counts from the cache.

    ``runtime``: what ``Decoding.start`` gets; ``drafter``: a name for the counts' file."""
    from workbench.runtime.verify_cost import curve

    verify = curve(runtime.model, runtime.settings, runtime.guard, runtime.emit)
    return AutoTree(depths, prior, verify, min(most, verify.most - 1), level_s,
                    kept_in(runtime, drafter, len(prior)))
