"""Every lossless method on many prompts: is the text plain decoding's, and if not, is it rounding?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, WorkbenchError
from workbench.speculation import equality
from workbench.speculation.benchmarking import PLAIN, with_method
from workbench.speculation.measuring import Decoded, decode

if TYPE_CHECKING:
    from workbench.runtime.model import Model
    from workbench.settings import Settings
    from workbench.zoo import Prompt


@dataclass
class Outcome:
    """Of one method: ``same`` of ``prompts`` texts are plain decoding's; the others' tokens by label.

    ``drafted``: tokens proposed in all; a method that proposed none proves nothing. ``skipped``: why it
    could not run. ``places``: (prompt's id, place) of every bug."""

    method: str
    prompts: int = 0
    same: int = 0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    near_ties: int = 0
    bugs: int = 0
    noise: float = 0.0
    skipped: str = ""
    places: tuple[tuple[str, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def lossless() -> list[str]:
    """Every registered method that promises the target's own text, plain decoding left out."""
    from workbench.techniques.base import family

    return [name for name, technique in family("decoding").items()
            if name != PLAIN and not name.startswith("diffusion_") and technique.lossless]


class Identity:
    """Compares methods with plain decoding, whose texts are made once."""

    def __init__(self, model: Model, base: Settings,
                 cancelled: Callable[[], bool] = lambda: False) -> None:
        self.model, self.base, self.cancelled = model, base, cancelled
        self._plain: dict[str, Decoded] = {}

    def run(self, method: str, prompts: Sequence[Prompt]) -> Outcome:
        """``method`` on these prompts, never falling back to plain decoding."""
        found = Outcome(method)
        try:
            settings = with_method(self.base, method, False)
            if not equality.comparable(settings):
                found.skipped = f"{method} keeps the distribution, not the tokens, when sampling"
                return found
            for prompt in prompts:
                own = decode(self.model, settings, [prompt.text], self.cancelled)
                self._count(found, settings, prompt, own)
        except Cancelled:
            raise
        except WorkbenchError as error:
            found.skipped = str(error)
        return found

    def _count(self, found: Outcome, settings: Settings, prompt: Prompt, own: Decoded) -> None:
        wanted = self._plainly(prompt)
        found.prompts += 1
        found.tokens += len(own.ids[0])
        found.drafted += own.drafted
        found.accepted += own.accepted
        if own.ids == wanted.ids:
            found.same += 1
            return
        verdict = equality.check(self.model, prompt.text, own.ids[0], settings, 0, self.cancelled)
        found.near_ties += verdict.near_ties
        found.bugs += verdict.bugs
        found.noise = max(found.noise, verdict.noise)
        wrong = tuple((prompt.id, d.place) for d in verdict.differences if d.label == "real bug")
        if len(own.ids[0]) != len(wanted.ids[0]) and verdict.exact:
            found.bugs += 1  # every token is right, and yet the text ends elsewhere
            wrong = ((prompt.id, min(len(own.ids[0]), len(wanted.ids[0]))),)
        found.places += wrong

    def _plainly(self, prompt: Prompt) -> Decoded:
        if prompt.text not in self._plain:
            settings = self.base.with_({"decoding": PLAIN})
            self._plain[prompt.text] = decode(self.model, settings, [prompt.text], self.cancelled)
        return self._plain[prompt.text]
