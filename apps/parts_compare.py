"""Runs side by side with the pinned baseline, requested beside effective, and two texts' difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from workbench.analysis.metrics import SPECS, format_metric
from workbench.apps.markup import Markup, join, sentence, table, tag
from workbench.apps.parts_tiles import change
from workbench.store import Run

#: Characters of each text that the difference shows.
_DIFF_SHOWN = 6000


def comparison(runs: Sequence[Run], baseline: Run | None) -> Markup:
    """Metrics down, runs across; the baseline is the first column."""
    columns = ([baseline] if baseline is not None else []) + [
        r for r in runs if baseline is None or r.id != baseline.id]
    if not columns:
        return tag("div", "Nothing to compare yet. Finished runs appear here beside the pinned "
                   "baseline.", cls="empty")
    head: list[Any] = [""] + [
        join([tag("span", r.label), tag("span", "baseline", cls="chip base")
              if baseline is not None and r.id == baseline.id else None]) for r in columns]
    rows = []
    for name, spec in SPECS.items():
        found = [(r.metrics or {}).get(name) for r in columns]
        if all(m is None or m.value is None for m in found) and name != "j_per_token":
            continue
        base = (baseline.metrics or {}).get(name) if baseline is not None else None
        cells = []
        for run, metric in zip(columns, found, strict=True):
            value: Any = format_metric(metric)
            if metric is not None and metric.value is None and metric.reason:
                value = tag("span", "n/a", tag("small", metric.reason), cls="missing")
            mine = baseline is not None and run.id == baseline.id
            cells.append(join([tag("span", value, cls="num"),
                               None if mine else change(name, metric, base)]))
        rows.append([tag("span", spec.label, title=spec.help), *cells])
    return table(head, rows, cls="grid wide")


def settings_difference(runs: Sequence[Run], baseline: Run | None) -> Markup | None:
    """What was set differently, by path."""
    if baseline is None or not runs:
        return None
    paths: dict[str, list[str]] = {}
    others = [r for r in runs if r.id != baseline.id]
    for column, run in enumerate(others):
        for path, (_, theirs) in baseline.requested.diff(run.requested).items():
            paths.setdefault(path, ["as the baseline"] * len(others))[column] = _value(theirs)
    if not paths:
        return None
    mine = baseline.requested.flat()
    rows = [[path, _value(mine.get(path)), *values] for path, values in paths.items()]
    return join([tag("h3", "What was set differently"),
                 table(["setting", baseline.label, *[r.label for r in others]], rows)])


def effective(run: Run | None) -> Markup:
    """What was asked for beside what really ran, read back from the runtime."""
    if run is None or not run.effective:
        return tag("div", "After a run this shows, for every setting, what was asked for and what "
                   "really ran.", cls="empty")
    rows, classes = [], []
    for path, found in run.effective.items():
        entry = _entry(found)
        ok = entry["honoured"]
        mark = tag("span", "as asked" if ok else "differs", cls=f"chip {'good' if ok else 'error'}")
        rows.append([path, entry["requested"], entry["effective"], mark, entry["reason"]])
        classes.append("" if ok else "differs")
    return table(["setting", "requested", "effective", "", "why"], rows, row_classes=classes)


def _entry(found: Any) -> dict[str, Any]:
    """A row from a record or a mapping."""
    get = found.get if isinstance(found, Mapping) else lambda name, default: getattr(
        found, name, default)
    return {"requested": str(get("requested", "")), "effective": str(get("effective", "")),
            "honoured": bool(get("honoured", True)), "reason": str(get("reason", ""))}


def difference(run: Run | None, baseline: Run | None) -> Markup:
    """Two outputs: where they part first, and what each says from there."""
    if run is None or baseline is None or run.id == baseline.id:
        return tag("div", "Run something with other settings: its text is compared here with the "
                   "pinned baseline's.", cls="empty")
    ours, theirs = run.text or "", baseline.text or ""
    if run.prompts != baseline.prompts:
        return sentence("The two runs had different prompts, so their texts are not comparable.",
                        "warning")
    if ours == theirs:
        return sentence(f"The texts are identical ({len(ours):,} characters).", "good")
    at = _divergence(ours, theirs)
    head = sentence(f"The texts agree for the first {at:,} characters, then part.", "warning")
    left, right = _columns(theirs[:_DIFF_SHOWN], ours[:_DIFF_SHOWN])
    return join([head, tag("div", tag("div", tag("h3", baseline.label), tag("div", left, cls="text")),
                           tag("div", tag("h3", run.label), tag("div", right, cls="text")),
                           cls="sides")])


def _divergence(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                min(len(a), len(b)))


def _columns(a: str, b: str) -> tuple[Markup, Markup]:
    """Both texts by words, what only one has marked, the first difference flagged."""
    left, right = _words(a), _words(b)
    out: tuple[list[Any], list[Any]] = ([], [])
    first = True
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        texts = "".join(left[i1:i2]), "".join(right[j1:j2])
        for side, text in zip(out, texts, strict=True):
            if kind != "equal" and first:
                side.append(tag("span", "first difference", cls="chip error here"))
            side.append(text if kind == "equal" else tag("mark", text) if text else None)
        first = first and kind == "equal"
    return join(out[0]), join(out[1])


def _words(text: str) -> list[str]:
    import re

    return re.findall(r"\s+|\w+|[^\w\s]", text)


def _value(value: Any) -> str:
    return "—" if value is None else str(value)
