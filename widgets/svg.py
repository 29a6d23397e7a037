"""A figure as SVG, for where no script runs: exports, viewers of repositories, mail.

Draws what the live charts use: lines, stacked areas, stacked bars in both directions, several y
axes above each other, notes. The page's style sheet gives fonts; colours are the figure's.
"""

from __future__ import annotations

import html
import math
import re
from typing import Any

WIDTH, HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 50
_GREY = "#8a94a0"


def svg(figure: dict[str, Any], title: str = "") -> str:
    """The drawing, or an empty string for an empty figure."""
    layout = figure.get("layout")
    if not layout:
        return ""
    traces = figure.get("data", [])
    if any(t.get("type") not in ("scatter", "bar") for t in traces):
        return ""
    body = _bars(traces, layout) if traces and traces[0]["type"] == "bar" else _lines(traces, layout)
    body += [_note(a) for a in layout.get("annotations", [])]
    body += _legend(traces)
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}" '
            f'font-size="10" fill="{_GREY}">{"".join(body)}</svg>')


def _plain(text: Any) -> str:
    """Figure text (entities, ``<br>``) as escaped text."""
    return html.escape(html.unescape(re.sub(r"<[^>]*>", " ", str(text))))


def _text(x: float, y: float, text: Any, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{_plain(text)}</text>'


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between ``low`` and ``high``."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    size = 10 ** math.floor(math.log10(span / count))
    step = next(size * m for m in (1, 2, 5, 10) if span / (size * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _color(trace: dict[str, Any]) -> str:
    color = trace.get("line", {}).get("color") or trace.get("marker", {}).get("color") or _GREY
    color = color[0] if isinstance(color, list) else color
    return color if re.fullmatch(r"#[0-9a-fA-F]{3,8}", str(color)) else _GREY


def _frame(x: tuple[float, float], y: tuple[float, float], top: float, bottom: float,
           x_title: Any = "", y_title: Any = "") -> list[str]:
    """Grid, tick labels and titles of one panel between two heights."""
    out = []
    for value in ticks(*y, 3):
        at = _scale(value, y, bottom, top)
        out.append(f'<path d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}" stroke="{_GREY}" '
                   'stroke-opacity=".25"/>')
        out.append(_text(_LEFT - 5, at + 3, f"{value:g}", "end"))
    if x_title:
        out += [_text(_scale(v, x, _LEFT, WIDTH - _RIGHT), bottom + 12, f"{v:g}", "middle")
                for v in ticks(*x, 5)]
        out.append(_text((_LEFT + WIDTH) / 2, bottom + 25, x_title, "middle"))
    middle = (top + bottom) / 2
    out.append(_text(11, middle, y_title, "middle", f'transform="rotate(-90 11 {middle:.1f})"'))
    return out


def _scale(value: float, domain: tuple[float, float], low: float, high: float) -> float:
    a, b = domain
    return low + (high - low) * ((value - a) / (b - a) if b > a else 0.5)


def _lines(traces: list[dict[str, Any]], layout: dict[str, Any]) -> list[str]:
    if not traces:
        return []
    every = [v for t in traces for v in t["x"]]
    x = (min(every), max(every))
    keys = list(dict.fromkeys(t.get("yaxis", "y") for t in traces))
    height = (HEIGHT - _TOP - _BOTTOM) / len(keys)
    out: list[str] = []
    for row, key in enumerate(keys):
        mine = [t for t in traces if t.get("yaxis", "y") == key]
        top, bottom = _TOP + row * height, _TOP + (row + 1) * height - (8 if len(keys) > 1 else 0)
        drawn = _stacked(mine)
        y = (0.0, max((v for _, _, up in drawn for v in up), default=1.0) or 1.0)
        last = key == keys[-1]
        axis = layout.get("yaxis" if key == "y" else f"yaxis{key[1:]}", {})
        out += _frame(x, y, top, bottom, _title(layout.get("xaxis", {})) if last else "",
                      _title(axis))
        for trace, low, up in drawn:
            out.append(_path(trace, low, up, x, y, top, bottom))
    return out


def _title(axis: dict[str, Any]) -> str:
    title = axis.get("title", "")
    return str(title.get("text", "") if isinstance(title, dict) else title)


def _stacked(traces: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[float], list[float]]]:
    """(trace, lower edge, upper edge); the lower edge of a plain line is empty."""
    found: list[Any] = []
    sums: dict[Any, list[float]] = {}
    for trace in traces:
        values = [float(v or 0) for v in trace["y"]]
        group = trace.get("stackgroup")
        if not group:
            found.append((trace, [], values))
            continue
        low = sums.get(group) or [0.0] * len(values)
        up = [a + b for a, b in zip(low, values, strict=False)]
        found.append((trace, low, up))
        sums[group] = up
    return found


def _path(trace: dict[str, Any], low: list[float], up: list[float], x: tuple[float, float],
          y: tuple[float, float], top: float, bottom: float) -> str:
    def point(i: int, value: float) -> str:
        return (f"{_scale(trace['x'][i], x, _LEFT, WIDTH - _RIGHT):.1f} "
                f"{_scale(value, y, bottom, top):.1f}")

    line = "L".join(point(i, v) for i, v in enumerate(up))
    if not low:
        return f'<path d="M{line}" fill="none" stroke="{_color(trace)}" stroke-width="1.8"/>'
    back = "L".join(point(i, low[i]) for i in reversed(range(len(low))))
    return f'<path d="M{line}L{back}Z" fill="{_color(trace)}" fill-opacity=".85"/>'


def _bars(traces: list[dict[str, Any]], layout: dict[str, Any]) -> list[str]:
    """Stacked bars; a horizontal trace has its categories on y."""
    across = traces[0].get("orientation") == "h"
    names = list(dict.fromkeys(v for t in traces for v in t["y" if across else "x"]))
    sums = dict.fromkeys(names, 0.0)
    for t in traces:
        for name, value in zip(t["y" if across else "x"], t["x" if across else "y"], strict=True):
            sums[name] += float(value or 0)
    most = (0.0, max(sums.values(), default=1.0) or 1.0)
    top, bottom = _TOP, HEIGHT - _BOTTOM
    x_title, y_title = _title(layout.get("xaxis", {})), _title(layout.get("yaxis", {}))
    out = [_text(_scale(v, most, _LEFT, WIDTH - _RIGHT), bottom + 12, f"{v:g}", "middle")
           for v in ticks(*most, 5)] if across else _frame(most, most, top, bottom, "", y_title)
    out.append(_text((_LEFT + WIDTH) / 2, bottom + 25, x_title, "middle"))
    room = ((bottom - top) if across else (WIDTH - _RIGHT - _LEFT)) / max(1, len(names))
    at = dict.fromkeys(names, 0.0)
    for t in traces:
        for name, value in zip(t["y" if across else "x"], t["x" if across else "y"], strict=True):
            size, slot = float(value or 0), names.index(name) * room
            a, b = at[name], at[name] + size
            at[name] = b
            if size > 0:
                out.append(_bar(across, slot, room, (a, b), most, _color(t), (top, bottom)))
    if across:
        out += [_text(_LEFT - 5, top + (i + .5) * room + 3, n, "end") for i, n in enumerate(names)]
    return out


def _bar(across: bool, slot: float, room: float, span: tuple[float, float],
         most: tuple[float, float], color: str, edges: tuple[float, float]) -> str:
    top, bottom = edges
    if across:
        a, b = (_scale(v, most, _LEFT, WIDTH - _RIGHT) for v in span)
        return (f'<rect x="{a:.1f}" y="{top + slot + room * .15:.1f}" width="{b - a:.1f}" '
                f'height="{room * .7:.1f}" fill="{color}"/>')
    a, b = (_scale(v, most, bottom, top) for v in span)
    return (f'<rect x="{_LEFT + slot + room * .05:.1f}" y="{b:.1f}" width="{room * .9:.1f}" '
            f'height="{a - b:.1f}" fill="{color}"/>')


def _note(note: dict[str, Any]) -> str:
    lines = str(note.get("text", "")).split("<br>")
    x = _LEFT if note.get("xanchor") == "left" else WIDTH / 2
    y = _TOP if note.get("yanchor") == "bottom" else HEIGHT / 2 - 6 * len(lines)
    anchor = "start" if note.get("xanchor") == "left" else "middle"
    return "".join(_text(x, y + 13 * i, line, anchor) for i, line in enumerate(lines))


def _legend(traces: list[dict[str, Any]]) -> list[str]:
    out, x = [], float(_LEFT)
    shown = [t for t in traces if t.get("name") and t.get("showlegend", True)]
    for trace in shown if len(shown) > 1 else []:
        name = html.unescape(str(trace["name"]))
        out.append(f'<rect x="{x:.1f}" y="{HEIGHT - 12}" width="8" height="8" '
                   f'fill="{_color(trace)}"/>' + _text(x + 11, HEIGHT - 4, name))
        x += 22 + 5.4 * len(name)
    return out
