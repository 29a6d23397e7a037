"""Python that makes the same configuration with this package."""

from __future__ import annotations

from typing import Any

from workbench.settings import Settings
from workbench.settings.tree import FAMILIES


def changes(settings: Settings) -> dict[str, Any]:
    """path -> value of what differs from the defaults, ``Settings().with_`` turns it back."""
    default = Settings()
    found: dict[str, Any] = {}
    for name in FAMILIES:
        technique = getattr(settings, name)
        if technique.name() != getattr(default, name).name():
            found[name] = technique.name()
    base, flat = default.with_(found).flat(), settings.flat()
    return found | {k: v for k, v in flat.items() if base.get(k) != v}


def code(settings: Settings, prompt: str | None = None) -> str:
    """A script: opens the model, runs the prompt, prints text and metrics."""
    found = changes(settings)
    model = found.pop("model.source", "bundled")
    plain = {k: v for k, v in found.items() if k.isidentifier()}
    dotted = {k: v for k, v in found.items() if k not in plain}
    lines = [f"{k}={v!r}," for k, v in plain.items()]
    if dotted:
        lines += ["**{", *(f"    {k!r}: {v!r}," for k, v in dotted.items()), "},"]
    if lines:
        call = "wb.open(\n" + "\n".join(f"    {line}" for line in [f"{model!r},", *lines]) + "\n)"
    else:
        call = f"wb.open({model!r})"
    ask = "wait=True" if prompt is None else f"{prompt!r}, wait=True"
    return (
        "import workbench as wb\n\n"
        f"bench = {call}\n"
        f"run = bench.run({ask})\n"
        "print(run.text)\n"
        "for name, metric in run.metrics.items():\n"
        "    print(name, metric.value, metric.unit, metric.reason)\n"
        "bench.close()\n")
