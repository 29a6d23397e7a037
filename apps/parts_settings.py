"""The current settings as code and files, and back: copy, download, paste."""

from __future__ import annotations

import io
from collections.abc import Callable

from workbench import export
from workbench.apps.markup import sentence, tag
from workbench.apps.offline import pn
from workbench.errors import WorkbenchError
from workbench.settings import Settings

#: Shown name -> (export format, file name).
FORMATS = {"Python": ("python", "workbench_run.py"), "YAML": ("yaml", "settings.yaml"),
           "JSON": ("json", "settings.json"), "vllm serve": ("vllm", "vllm.sh"),
           "llama-server": ("llama-server", "llama-server.sh")}
_COPY = """
const text = source.value
if (navigator.clipboard && window.isSecureContext) { navigator.clipboard.writeText(text) }
else {
  const box = document.createElement('textarea')
  box.value = text; document.body.appendChild(box); box.select()
  document.execCommand('copy'); box.remove()
}
button.label = 'Copied'
setTimeout(() => { button.label = 'Copy' }, 1200)
"""


class SettingsPart:
    """``apply(text)`` takes pasted settings and may raise WorkbenchError."""

    def __init__(self, apply: Callable[[str], None]) -> None:
        self._apply = apply
        self._settings: Settings | None = None
        self._prompt: str | None = None
        self.format = pn.widgets.RadioButtonGroup(options=list(FORMATS), value="Python",
                                                  margin=(4, 4), css_classes=["segments"])
        self.format.param.watch(lambda _: self._draw(), "value")
        self._code = pn.pane.HTML("", margin=4)
        self._text = pn.widgets.TextInput(visible=False)
        copy = pn.widgets.Button(label="Copy", width=80, margin=4, css_classes=["quiet"])
        copy.js_on_click(args={"source": self._text, "button": copy}, code=_COPY)
        self.download = pn.widgets.FileDownload(
            callback=lambda: io.BytesIO(str(self._text.value).encode()), filename="settings.yaml",
            label="Download", width=110, margin=4, css_classes=["quiet"])
        self.pasted = pn.widgets.TextAreaInput(label="Paste settings (YAML or JSON)", rows=4,
                                               margin=(10, 4, 4, 4))
        take = pn.widgets.Button(label="Use these settings", width=150, margin=4,
                                 css_classes=["quiet"])
        take.on_click(lambda _: self._take())
        self._message = pn.pane.HTML("", margin=4)
        self.layout = pn.Column(self.format, self._code, pn.Row(copy, self.download, margin=0),
                                self.pasted, take, self._message, self._text, margin=0)

    def draw(self, settings: Settings, prompt: str | None) -> None:
        if settings != self._settings or prompt != self._prompt:
            self._settings, self._prompt = settings, prompt
            self._draw()

    def _draw(self) -> None:
        if self._settings is None:
            return
        name, filename = FORMATS[self.format.value]
        try:
            text = export.export(self._settings, name, prompt=self._prompt)
        except WorkbenchError as error:
            text = f"# {error}"
        self._text.value, self.download.filename = text, filename
        self._code.object = str(tag("pre", tag("code", text), cls="code"))

    def _take(self) -> None:
        try:
            self._apply(self.pasted.value or "")
            self._message.object = str(sentence("The settings are in use.", "good"))
        except WorkbenchError as error:
            self._message.object = str(sentence(str(error), "error"))
