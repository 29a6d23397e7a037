"""The formats by name. Bits per weight with their scales are in each row's comment."""

from __future__ import annotations

from workbench.errors import SettingsError
from workbench.formats import elements
from workbench.formats.blocks import Format
from workbench.formats.scales import Rule

FORMATS: dict[str, Format] = {form.name: form for form in (
    Format("nf4", elements.NF4, 64, Rule("fp32")),                         # 4.5; 4.127 with `double`
    Format("mxfp4", elements.E2M1, 32, Rule("e8m0")),                      # 4.25
    Format("nvfp4", elements.E2M1, 16, Rule("e4m3", tensor=True)),         # 4.5
    Format("nvfp4-plain", elements.E2M1, 16, Rule("e4m3")),                # 4.5, no tensor scale
    Format("ue5m3", elements.E2M1, 16, Rule("ue5m3")),                     # 4.5
    Format("mxfp6-e2m3", elements.E2M3, 32, Rule("e8m0")),                 # 6.25
    Format("mxfp6-e3m2", elements.E3M2, 32, Rule("e8m0")),                 # 6.25
    Format("mxfp8-e4m3", elements.E4M3, 32, Rule("e8m0")),                 # 8.25
    Format("mxfp8-e5m2", elements.E5M2, 32, Rule("e8m0")),                 # 8.25
    Format("fp8-e4m3", elements.E4M3, 0, Rule("fp32")),                    # 8 + 32 / columns
    Format("fp8-e5m2", elements.E5M2, 0, Rule("fp32")),
)}


def format_of(name: str) -> Format:
    """Raises SettingsError with the names that exist."""
    if name not in FORMATS:
        raise SettingsError(f"there is no number format {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def variant(name: str, *, block: int | None = None, scale: str = "") -> Format:
    """``name`` with another block or scale rule (the tensor scale stays where the rule has a use for it)."""
    base = format_of(name)
    rule = base.rule if not scale else Rule(scale, base.rule.tensor and scale in ("e4m3", "ue5m3"))
    return Format(name, base.element, base.block if block is None else block, rule)
