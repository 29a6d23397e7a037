"""HTML fragments in which every text is escaped: the only way this app makes HTML.

A ``str`` given as a child is text and is escaped; only what these functions returned is markup.
Panel's HTML pane runs what it is given, so a prompt, a model's output, an error or a label must
never reach it in another way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

Child = str | Markup | None


def tag(name: str, *children: Child, **attributes: str | None) -> Markup:
    """``<name class="...">children</name>``; ``cls`` is ``class``, ``data_x`` is ``data-x``."""
    pairs = [("class" if k == "cls" else k.replace("_", "-"), v) for k, v in attributes.items()
             if v is not None]
    opening = Markup("").join(Markup(' {}="{}"').format(Markup(k), v) for k, v in pairs)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), opening, join(children))


def join(children: Iterable[Child], separator: str = "") -> Markup:
    """Children one after the other, each escaped unless it is markup."""
    return Markup(separator).join(escape(c) for c in children if c is not None)


def table(head: Sequence[Child], rows: Iterable[Sequence[Child]], cls: str = "grid",
          row_classes: Sequence[str] | None = None) -> Markup:
    """A table; the first column is the row's heading."""
    body = []
    for number, cells in enumerate(rows):
        first, *rest = cells
        body.append(tag("tr", tag("th", first, scope="row"), *[tag("td", c) for c in rest],
                        cls=row_classes[number] if row_classes else None))
    heading = tag("thead", tag("tr", *[tag("th", h, scope="col") for h in head]))
    return tag("div", tag("table", heading, tag("tbody", *body), cls=cls), cls="scroll")


def sentence(text: str, level: str = "info") -> Markup:
    """One sentence for the user. ``level``: info, warning, error, good."""
    return tag("div", text, cls=f"note {level}", role="alert" if level == "error" else "status")
