"""Texts that go on until one of some strings, with the run's own decoding: lm-eval's ``generate_until``.

Prompts that want the same are decoded together. A batch ends as soon as every text in it has reached one
of its ends; what comes after the end is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import Cancelled, SettingsError
from workbench.events import Event, Token
from workbench.settings import Settings

#: Prompts that are decoded together.
BATCH = 8
#: New tokens where a task does not say how many.
MOST_TOKENS = 256
#: lm-eval's own names for the number of new tokens, the first that is there counts.
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Wish:
    """How a task wants a text made; texts with equal wishes are decoded together."""

    until: tuple[str, ...]
    tokens: int = MOST_TOKENS
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    #: How often the same prompt was asked before: its random numbers are others.
    turn: int = 0

    @classmethod
    def of(cls, given: dict[str, Any], turn: int = 0) -> Wish:
        """From a request's generation arguments (``until max_gen_toks do_sample temperature top_k top_p``).

        Greedy unless ``do_sample`` is true, or absent beside a temperature. Raises SettingsError."""
        until = given.get("until") or []
        ends = tuple(str(u) for u in ([until] if isinstance(until, str) else until) if u)
        try:
            tokens = int(next((given[n] for n in _LENGTHS if given.get(n) is not None), MOST_TOKENS))
            heat = float(given.get("temperature") or 0.0)
        except (TypeError, ValueError):
            raise SettingsError(f"the task's generation arguments {given} cannot be read; its tokens and "
                                "temperature must be numbers") from None
        sample = given.get("do_sample", heat > 0)
        if not sample:
            return cls(ends, tokens)
        return cls(ends, tokens, heat if "temperature" in given else 1.0, given.get("top_k"),
                   given.get("top_p"), turn)

    def settings(self, base: Settings, tokens: int, batch: int) -> Settings:
        """``base`` with this wish: its weights, cache and decoding stay."""
        changes: dict[str, Any] = {
            "limits.max_new_tokens": tokens, "limits.batch": batch, "limits.stop_at_eos": True,
            "sampling.temperature": self.temperature, "telemetry.preset": "off", "telemetry.power": False}
        if self.temperature > 0:
            changes["seed"] = base.seed + self.turn
            changes |= {f"sampling.{n}": v for n, v in (("top_k", self.top_k), ("top_p", self.top_p))
                        if v is not None}
        return base.with_(changes)


def cut(text: str, ends: Sequence[str]) -> str:
    """``text`` before the first of ``ends`` in it."""
    return text[:min((at for e in ends if (at := text.find(e)) >= 0), default=len(text))]


@dataclass
class Answerer:
    """``cut_prompts``: prompts whose beginning was left out because the model's positions are few;
    ``shortened``: texts that got less room than the task wants, for the same reason."""

    model: Any
    settings: Settings
    cancelled: Callable[[], bool]
    cut_prompts: int = 0
    shortened: int = 0

    def answer(self, prompts: Sequence[str], wish: Wish) -> list[str]:
        """At most ``BATCH`` prompts -> their texts. Raises Cancelled, SettingsError, OutOfMemory."""
        most = int(self.model.forward.max_positions)
        tokens = max(1, min(wish.tokens, most // 2))
        self.shortened += len(prompts) * (tokens < wish.tokens)
        fitted = [self._fitted(p, most - tokens) for p in prompts]
        seen = _Seen(wish.until, set(self.model.stops()), [""] * len(prompts))
        settings = wish.settings(self.settings, tokens, len(prompts))
        try:
            output = self.model.generate(fitted, settings, seen, lambda: seen.over() or self.cancelled())
            texts = output.texts
        except Cancelled:
            if self.cancelled() or not seen.over():
                raise
            texts = seen.texts
        return [cut(t, wish.until) for t in texts]

    def _fitted(self, prompt: str, room: int) -> str:
        """The end of ``prompt`` that is at most ``room`` tokens long."""
        ids = self.model.encode(prompt)
        begin = getattr(self.model.tokenizer, "bos_token", None)
        if begin and prompt.startswith(begin) and len(ids) > 1 and ids[0] == ids[1]:
            return self._fitted(prompt[len(begin):], room)  # a chat template wrote what encoding adds
        if len(ids) <= room:
            return prompt
        self.cut_prompts += 1
        keep = room
        while keep > 0:  # a text that begins in the middle of a word may take a token more
            text = str(self.model.tokenizer.decode(ids[-keep:], skip_special_tokens=True))
            if len(self.model.encode(text)) <= room:
                return text
            keep -= 1
        raise SettingsError(f"the task's prompt does not fit into {room} tokens; choose another task or a "
                            "model with more positions")


@dataclass
class _Seen:
    """Listens to the tokens: what each text is so far, and whether all have ended."""

    ends: tuple[str, ...]
    stops: set[int]
    texts: list[str]
    _ended: set[int] = field(default_factory=set)

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Token):
            return
        at = event.sequence
        self.texts[at] += event.text
        if event.id in self.stops or any(e in self.texts[at] for e in self.ends):
            self._ended.add(at)

    def over(self) -> bool:
        return len(self._ended) == len(self.texts)
