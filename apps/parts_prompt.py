"""The prompt, the bundled prompts, and the buttons."""

from __future__ import annotations

from collections.abc import Callable

from workbench import zoo
from workbench.apps.markup import sentence, tag
from workbench.apps.offline import pn

Handler = Callable[[], None]


class Prompt:
    """``run cancel pin compare`` are called on the button's click, without arguments."""

    def __init__(self, *, run: Handler, cancel: Handler, pin: Handler, compare: Handler,
                 longest: int) -> None:
        self._bundled = {p.id: p.text for p in bundled()}
        first = next(iter(self._bundled.values()), "")
        self.choice = pn.widgets.Select(label="Bundled prompt", options=[*self._bundled, "your own"],
                                        margin=(0, 4), max_width=340)
        self.text = pn.widgets.TextAreaInput(label="Prompt", value=first, rows=4, auto_grow=True,
                                             max_rows=14, max_length=longest, margin=(4, 4),
                                             css_classes=["promptbox"])
        self.choice.param.watch(self._chosen, "value")
        self.text.param.watch(self._typed, "value")
        self.run = self._button("Run", run, "primary", 92)
        # The browser answers the click itself; the server's word follows within a frame.
        self.run.js_on_click(code="document.documentElement.classList.add('busy')")
        self.cancel = self._button("Cancel", cancel, "default", 84)
        self.pin = self._button("Pin as baseline", pin, "default", 138)
        self.compare = self._button("Compare", compare, "default", 92)
        self.report = pn.pane.HTML("", margin=(6, 4), width=190, sizing_mode="fixed")
        self.message = pn.pane.HTML("", margin=(2, 4, 0, 4))
        buttons = pn.FlexBox(self.run, self.cancel, self.pin, self.compare, self.report,
                             margin=0, css_classes=["buttons"], align_items="center")
        self.layout = pn.Column(self.choice, self.text, buttons, self.message, margin=0)

    def _button(self, name: str, handler: Handler, kind: str, width: int) -> pn.widgets.Button:
        button = pn.widgets.Button(label=name, color=kind, width=width, margin=(6, 4),
                                   sizing_mode="fixed")
        button.on_click(lambda _: handler())
        return button

    def _chosen(self, event: object) -> None:
        text = self._bundled.get(self.choice.value)
        if text is not None:
            self.text.value = text

    def _typed(self, event: object) -> None:
        if self._bundled.get(self.choice.value) != self.text.value:
            same = [t for t, text in self._bundled.items() if text == self.text.value]
            self.choice.value = same[0] if same else "your own"

    def say(self, text: str, level: str = "info") -> None:
        """One sentence under the buttons; empty clears it."""
        html = str(sentence(text, level)) if text else ""
        if self.message.object != html:
            self.message.object = html

    def offer_report(self, run_ids: list[str]) -> None:
        """The link that downloads the report of these runs (the first is the baseline)."""
        html = str(tag("a", "Export report", href=f"./report?runs={','.join(run_ids)}",
                       cls="linkbutton", download="workbench-report.html")) if run_ids else str(
            tag("span", "Export report", cls="linkbutton off", title="after the first run"))
        if self.report.object != html:
            self.report.object = html


def bundled() -> list[zoo.Prompt]:
    """The bundled prompts."""
    return list(zoo.prompts())
