"""Is an output the plain target's own? Every difference is labelled: numeric near-tie, or real bug.

The output is fed to the plain target token by token, exactly as plain decoding would (one row per forward),
so a difference early in the text does not hide what comes after it. At each place the target's own choice
is compared with the token that was emitted. Where they differ, the gap between the two tokens' scores is
held against the measured noise of the two paths: the same text is fed once more in forwards of several
rows, as a verification feeds it, and the largest change of a score difference between the two paths at any
place is what rounding alone can do here. A gap within twice that is a near-tie; a larger one is a bug.
Kernels that give a row the same bits whatever the number of rows have no noise, and then only exact ties
(a gap of zero) are near-ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import SettingsError

if TYPE_CHECKING:
    import torch

    from workbench.runtime.model import Model
    from workbench.runtime.sampling import Sampler
    from workbench.settings import Settings

#: Gap that counts as a tie, in units of the measured noise.
WITHIN = 2.0
#: Best tokens of each row whose score differences are compared between the paths.
_BEST = 8


@dataclass(frozen=True)
class Difference:
    """At ``place`` (0: the first new token) ``emitted`` stands where the plain target takes ``wanted``.

    ``gap``: by how much the target prefers it (logits; ratio of scores as a logarithm when sampling).
    ``label``: ``numeric near-tie`` or ``real bug``."""

    place: int
    emitted: int
    wanted: int
    gap: float
    label: str


@dataclass(frozen=True)
class Verdict:
    """``noise``: the measured one, in the gap's unit. ``exact`` when there is no difference at all."""

    places: int
    noise: float
    differences: tuple[Difference, ...]

    @property
    def exact(self) -> bool:
        return not self.differences

    @property
    def bugs(self) -> int:
        return sum(d.label == "real bug" for d in self.differences)

    @property
    def near_ties(self) -> int:
        return len(self.differences) - self.bugs

    def describe(self) -> str:
        if self.exact:
            return f"all {self.places} tokens are the plain target's own"
        said = f"{len(self.differences)} of {self.places} tokens are not the plain target's own: "
        ties = (f"{self.near_ties} numeric near-ties (gap within {WITHIN:g} x the paths' noise "
                f"{self.noise:.2g})")
        bugs = [d for d in self.differences if d.label == "real bug"]
        if not bugs:
            return said + ties
        worst = max(bugs, key=lambda d: d.gap)
        return (said + (ties + ", " if self.near_ties else "") + f"{self.bugs} real bugs, the worst at token "
                f"{worst.place} with a gap of {worst.gap:.3g}")

    def to_dict(self) -> dict[str, Any]:
        return {"places": self.places, "noise": self.noise, "exact": self.exact, "near_ties": self.near_ties,
                "bugs": self.bugs, "differences": [asdict(d) for d in self.differences]}


def comparable(settings: Settings) -> bool:
    """Whether every token must be the plain target's: not under rules that weigh drafts by their
    probabilities, which keep the distribution only, nor where a method is not lossless."""
    changes = getattr(settings.decoding, "drafts_change_text", lambda: False)()
    return settings.decoding.lossless and not (changes and settings.sampling.temperature > 0)


def check(model: Model, prompt: str, output: Sequence[int], settings: Settings, sequence: int = 0,
          cancelled: Callable[[], bool] = lambda: False) -> Verdict:
    """Compare ``output`` (new tokens) of ``prompt`` with the plain target's choices.

    ``settings``: those of the run (sampling and seed, cache, weights); ``sequence``: its place in the
    batch, which names its noise. Raises SettingsError for rules that keep only the distribution."""
    import torch

    from workbench.runtime.guard import Guard
    from workbench.runtime.sampling import Sampler

    if not comparable(settings):
        raise SettingsError(f"{settings.decoding} keeps the distribution and not the tokens when sampling, "
                            "so there is no text to compare with; check at temperature 0, or with "
                            "decoding.rule=coupled where the method has that")
    sampling = settings.sampling
    sampler = Sampler(sampling.temperature, sampling.top_k, sampling.top_p, settings.seed,
                      model.device).of(sequence)
    ids = model.encode(prompt)
    guard = Guard(cancelled)
    if not output:
        return Verdict(0, 0.0, ())
    rows = max(2, settings.decoding.rows())
    with torch.inference_mode():
        one = _scores(model, settings, ids, output, 1, sampler, guard)
        many = _scores(model, settings, ids, output, rows, sampler, guard)
        return _compare(one, many, output)


def _compare(one: Iterator[torch.Tensor], many: Iterator[torch.Tensor], output: Sequence[int]) -> Verdict:
    noise = 0.0
    found: list[tuple[int, int, int, float]] = []
    for place, (alone, together, token) in enumerate(zip(one, many, output, strict=True)):
        best = alone.topk(min(_BEST, alone.shape[-1])).indices
        # Differences of scores decide, so a shift of a whole row is no noise.
        a, b = alone[best] - alone[best[0]], together[best] - together[best[0]]
        finite = a.isfinite() & b.isfinite()
        noise = max(noise, float((a - b)[finite].abs().max()))
        wanted = int(alone.argmax())
        if wanted != token:
            found.append((place, token, wanted, float(alone[wanted] - alone[token])))
    return Verdict(len(output), noise, tuple(
        Difference(place, token, wanted, gap, "numeric near-tie" if gap <= WITHIN * noise else "real bug")
        for place, token, wanted, gap in found))


def _scores(model: Model, settings: Settings, ids: list[int], output: Sequence[int], rows: int,
            sampler: Sampler, guard: Any) -> Iterator[torch.Tensor]:
    """Scores [V] whose largest entry is the target's choice, at every place of ``output``; the text is fed
    in forwards of ``rows`` rows behind the prompt."""
    from workbench.runtime.forward import reading
    from workbench.runtime.model import chunk_rows

    text = [*ids, *output]
    cache = model.cache(settings, 1, len(text) + rows)
    masks = model.forward.masks([0], cache.capacity)
    logits = None
    for base in range(0, len(ids), chunk_rows(model)):  # the prompt as every run reads it
        part = ids[base:base + chunk_rows(model)]
        guard.check()
        with reading(model.forward):
            logits = _feed(model, part, base, masks, cache, 1)[-1]
    assert logits is not None
    cache.show_blocks(masks.block)
    yield _score(sampler, logits, len(ids))
    for base in range(len(ids), len(text) - 1, rows):
        guard.check()
        part = text[base:min(base + rows, len(text) - 1)]
        logits = _feed(model, part, base, masks, cache, len(part))
        yield from [_score(sampler, row, base + i + 1) for i, row in enumerate(logits)]


def _score(sampler: Sampler, logits: torch.Tensor, position: int) -> torch.Tensor:
    """Logits, or the logarithm of what the coupled draw compares; a copy, because the next forward
    writes over the logits."""
    if sampler.greedy:
        return logits.float().clone()
    return sampler.scores(logits[None], [position])[0].log()


def _feed(model: Model, part: Sequence[int], base: int, masks: Any, cache: Any, keep: int) -> torch.Tensor:
    """Logits [keep, V] of the last rows; appends to the cache."""
    import torch

    device = model.forward.device
    n = len(part)
    tokens = torch.tensor([list(part)], device=device)
    places = torch.arange(base, base + n, device=device)[None]
    mask = (masks.tree(base, list(range(-1, n - 2)), list(range(1, n))) if keep == n
            else masks.rows(base, n))
    return model.forward(tokens, places, mask, cache, keep)[0]
