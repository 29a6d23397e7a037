"""Every panel as static HTML: for exports, viewers without scripts, front ends without widgets.

Drawn from the same values as the live widget. All text goes through one function that escapes it;
what models and users wrote stands in ``pre`` and ``code``, where a notebook typesets no formulas.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from workbench.analysis.live import Live
from workbench.widgets import state
from workbench.widgets.figures import CHARTS, Figures
from workbench.widgets.forecast import forecast_state
from workbench.widgets.style import style
from workbench.widgets.svg import svg

if TYPE_CHECKING:
    from workbench.session import Session
    from workbench.store import Run


def _e(text: Any) -> str:
    """Escaped, and with no character that starts a formula outside ``code``."""
    return html.escape(str(text)).replace("$", "<code>&#36;</code>")


def page(session: Session) -> str:
    """The whole view as one block of HTML with its style; it asks nobody for anything."""
    run = session.live or (session.runs[-1] if session.runs else session.pinned)
    live, figures = Live(), Figures()
    if run is not None:
        live.feed(run.events)
    runs = state.compared(session, [])
    about = state.about(session)
    stage = [_status(session, run, live), _output(run, live), _tiles(state.tiles(run, session.pinned)),
             _charts(figures.update(live)), _comparison(state.comparison(runs, session.pinned)),
             _effective(state.effective(run)), _difference(state.difference(run, session.pinned)),
             _code(session, run)]
    return (f'<div class="wb"><style>{style()}</style><div class="wb-head">'
            f'<span class="wb-brand">Inference Workbench</span>'
            f'<span class="wb-model">{_e(about["model"])}</span>'
            f'<span class="wb-machine">{_e(about["machine"])}</span></div>'
            f'<div class="wb-grid"><div class="wb-side">{_forecast(forecast_state(session))}'
            f'{_settings(session)}</div><div class="wb-stage">{"".join(stage)}</div></div></div>')


def _card(title: str, body: str, cls: str = "") -> str:
    return f'<div class="wb-card {cls}"><h3>{_e(title)}</h3>{body}</div>'


def _table(head: list[str], rows: list[list[str]], cls: str = "") -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{c}</th>" for c in head)
    body = "".join("<tr>" + "".join(f"<{'th' if i == 0 else 'td'}>{c}</{'th' if i == 0 else 'td'}>"
                                    for i, c in enumerate(row)) + "</tr>" for row in rows)
    return (f'<div class="wb-scroll"><table class="{cls}"><thead><tr>{top}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")


def _settings(session: Session) -> str:
    out = []
    for group in state.controls(session.controls()):
        if not (group["open"] or group["changed"]):
            continue
        rows = [[_e(c["label"]), f"<code>{html.escape(str(c['value']))}</code> {_e(c['unit'])}"]
                for c in group["controls"]]
        out.append(_card(group["title"], _table([], rows)))
    return "".join(out)


def _forecast(found: dict[str, Any]) -> str:
    said = f"<p class='wb-bad'>{_e(found['error'])}</p>" if found["error"] else ""
    rows = [[_e(r["label"]), f"{_e(r['text'])}<br><small>{_e(r['range'] or r['reason'])}</small>"]
            for r in found["rows"]]
    rows += [[_e(t["label"]), _e(t["text"])] for t in found["tiers"]]
    basis = "; ".join([found["basis"], *found["notes"]]) if found["basis"] else ""
    return _card("Forecast", said + _table([], rows, "wb-numbers")
                 + f'<div class="wb-help">{_e(basis)}</div>')


def _status(session: Session, run: Run | None, live: Live) -> str:
    s = state.status(session, run, live, None)
    return (f'<div class="wb-card"><div class="wb-status" data-level="{_e(s["level"])}">'
            f'<span class="wb-word">{_e(s["word"])}</span>'
            f'<span class="wb-sentence">{_e(s["sentence"])}</span></div></div>')


def _output(run: Run | None, live: Live) -> str:
    if run is None:
        return ""
    texts = []
    for pieces in live.pieces.values():
        texts.append("".join(f'<span class="wb-from-{html.escape(source)}">{html.escape(text)}</span>'
                             for source, text, _ in pieces))
    given = f'<span class="wb-given">{html.escape(run.prompt)}</span>'
    body = "\n\n".join(texts)
    return _card("Output", f'<pre class="wb-text">{given}{body}</pre>')


def _beside(tile: dict[str, Any]) -> str:
    said = (tile["remarks"], f"{tile['ratio']} the baseline" if tile["ratio"] else tile["reason"])
    return ", ".join(s for s in said if s)


def _tiles(tiles: list[dict[str, Any]]) -> str:
    out = "".join(
        f'<div class="wb-tile" title="{_e(t["help"])}"><div class="wb-key">{_e(t["label"])}</div>'
        f'<div class="wb-value">{_e(t["text"])}</div><div class="wb-delta wb-{_e(t["verdict"])}">'
        f'{_e(_beside(t))}</div></div>'
        for t in tiles)
    return f'<div class="wb-tiles">{out}</div>'


def _charts(figures: dict[str, Any]) -> str:
    cards = [_card(c.title, svg(figures[c.name], c.title), "wb-chart") for c in CHARTS
             if figures.get(c.name)]
    return f'<div class="wb-charts">{"".join(cards)}</div>'


def _comparison(found: dict[str, Any]) -> str:
    if not found["runs"]:
        return ""
    head = [""] + [_e(r["label"]) + (" (baseline)" if r["baseline"] else "") for r in found["runs"]]
    rows = [[_e(r["label"])] + [
        f'{_e(c["text"])} <span class="wb-delta wb-{_e(c["verdict"])}">'
        f'{_e(c["ratio"] if c["verdict"] != "baseline" else "")}</span>' for c in r["cells"]]
        for r in found["rows"]]
    why = f'<p class="wb-explain">{_e(found["why"])}</p>' if found["why"] else ""
    return _card("Comparison", why + _table(head, rows, "wb-numbers"))


def _effective(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    return _card("Requested and effective", _table(
        ["setting", "requested", "effective", "", "why"],
        [[_e(r["path"]), _e(r["requested"]), _e(r["effective"]),
          "as asked" if r["honoured"] else '<span class="wb-bad">differs</span>', _e(r["reason"])]
         for r in rows]))


def _difference(found: dict[str, Any]) -> str:
    if not found["parts"]:
        return ""
    sides = []
    for key in ("a", "b"):
        parts = "".join(html.escape(p[key]) if p["op"] == "equal" else
                        f"<mark>{html.escape(p[key])}</mark>" for p in found["parts"])
        sides.append(f'<div><h4>{_e(found[key])}</h4><pre class="wb-text">{parts}</pre></div>')
    return _card("Text difference", f'<p class="wb-explain">{_e(found["sentence"])}</p>'
                                    f'<div class="wb-sides">{"".join(sides)}</div>')


def _code(session: Session, run: Run | None) -> str:
    text = session.code(prompt=run.prompt if run is not None else None)
    return _card("As code", f'<pre class="wb-text wb-code">{html.escape(text)}</pre>')
