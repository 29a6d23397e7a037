"""Runs of short kernels that come again and again: what fusing them would save at most."""

from __future__ import annotations

from collections import Counter

import polars as pl

from workbench.traces import measures


def candidates(frame: pl.DataFrame, least: int = 2, most: int = 6, top: int = 20) -> pl.DataFrame:
    """Sequences of ``least`` to ``most`` kernels in one stream, with how often they come and ``gain_us``.

    The gain is an estimate and an upper bound: the larger of the gaps between the kernels of the sequence
    and, where the host is the limit, its time in all launches but one; what fusing saves in memory traffic
    is not known from a trace. Sequences are counted without overlap, and one that is part of a longer one
    with as many repetitions is left out."""
    work = measures.kernels(frame).filter(pl.col("kind") == "compute")
    hosted = measures.tklqt(frame).bound == "host"
    calls = measures.launches(frame).select("correlation", "call_us").unique("correlation")
    work = work.join(calls, on="correlation", how="left", maintain_order="left").with_columns(
        call_us=pl.when(hosted).then(pl.col("call_us")).otherwise(0.0)
    )
    found: dict[tuple[str, ...], tuple[int, float]] = {}
    for _, part in work.group_by(["device", "stream"], maintain_order=True):
        _count(part, found, least, most)
    kept = [
        (names, count, gain)
        for names, (count, gain) in found.items()
        if gain > 0
        and not _repeats(names)
        and not any(
            len(longer) > len(names)
            and found[longer][0] >= count
            and _within(names, longer)
            and not _repeats(longer)
            for longer in found
        )
    ]
    kept.sort(key=lambda row: -row[2])
    return pl.DataFrame(
        [
            {"kernels": " + ".join(names), "length": len(names), "count": count, "gain_us": gain}
            for names, count, gain in kept[:top]
        ],
        schema={"kernels": pl.String, "length": pl.Int64, "count": pl.Int64, "gain_us": pl.Float64},
    )


def _repeats(names: tuple[str, ...]) -> bool:
    """A shorter sequence, several times."""
    size = len(names)
    return any(names == names[:p] * (size // p) for p in range(1, size) if size % p == 0)


def _count(
    part: pl.DataFrame, found: dict[tuple[str, ...], tuple[int, float]], least: int, most: int
) -> None:
    names = part["name"].cast(pl.String).to_list()
    gaps = (part["ts"] - part["end"].cum_max().shift(1)).clip(0.0).fill_null(0.0).to_list()
    calls = part["call_us"].fill_null(0.0).to_list()
    for length in range(least, most + 1):
        seen = Counter(zip(*(names[i:] for i in range(length)), strict=False))
        often = {key for key, count in seen.most_common(50) if count >= 3}
        last: dict[tuple[str, ...], int] = {}
        for at in range(len(names) - length + 1):
            key = tuple(names[at : at + length])
            if key not in often or last.get(key, -length) + length > at:
                continue
            last[key] = at
            count, gain = found.get(key, (0, 0.0))
            saved = max(sum(gaps[at + 1 : at + length]), sum(calls[at + 1 : at + length]))
            found[key] = (count + 1, gain + saved)


def _within(names: tuple[str, ...], longer: tuple[str, ...]) -> bool:
    return any(longer[i : i + len(names)] == names for i in range(len(longer) - len(names) + 1))
