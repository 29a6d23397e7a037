"""What a speculative run did with its settings, in words, for the report on effective settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.runtime.speculation import SpeculativeLoop

_TEXT = "other drafts would give another text here, so what is drafted must not depend on a clock"


def read_back(loop: SpeculativeLoop) -> dict[str, tuple[str, str]]:
    """control -> (what ran, why it differs or empty)."""
    return {"schedule": _schedule(loop), "fallback": _fallback(loop), "length": _length(loop)}


def _schedule(loop: SpeculativeLoop) -> tuple[str, str]:
    if len(loop.sequences) == 1:
        return f"{loop.align}: one sequence, nothing to align", ""
    why = "" if loop.align == loop.wanted else (
        f"a {loop.cache.label} cache packs whole sequences, which cannot be moved")
    if loop.align == "ragged":
        return "ragged: every sequence has its own length in the cache", why
    share = loop.realign_s / loop.decode_s if loop.decode_s else 0.0
    moved = f"{loop.realigned} moves of a sequence took {share:.0%} of the decoding time"
    if loop.align == "equal":
        return f"equal: {moved}", why
    size = loop.turns / max(1, loop.forwards - 1)
    return f"grouped: {size:.1f} sequences per step of {len(loop.sequences)}; {moved}", why


def _fallback(loop: SpeculativeLoop) -> tuple[str, str]:
    pays = loop.pays
    if not pays.enabled:
        return "false", _TEXT if loop.choice_fallback else ""
    if pays.gain is None:
        return "true: too few steps to compare", ""
    plain = f"{loop.plain_steps} of {loop.step} steps were plain"
    measured = f"tokens per second {pays.gain:.2f} times those of plain decoding"
    if pays.on:
        return f"true: speculation pays, {measured}; {plain}", ""
    return f"true: decoding plainly, speculation had {measured}; {plain}", ""


def _length(loop: SpeculativeLoop) -> tuple[str, str]:
    mean = loop.drafted / loop.verifications if loop.verifications else 0.0
    if loop.lengths is None:
        return "fixed", _TEXT if loop.choice_auto else ""
    return f"auto: {mean:.1f} tokens drafted per sequence and verification, {loop.rows - 1} at most", ""
