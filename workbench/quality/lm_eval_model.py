"""The workbench's loaded model as lm-eval sees one: an ``lm_eval.api.model.LM``.

Only imported where lm-eval is installed. How a pair of texts becomes tokens is lm-eval's own code
(``TemplateLM``), so that figures mean what they mean elsewhere; what the tokens are worth is computed by
the workbench, with the effective weights, cache and decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM

from workbench.errors import Cancelled, SettingsError
from workbench.quality.lm_eval_answers import BATCH, Answerer, Wish
from workbench.quality.lm_eval_journal import Responses
from workbench.quality.lm_eval_scoring import Scorer
from workbench.settings import Settings

#: (request, response): told after every response, also those that are in the journal.
Told = Callable[[Any, Any], None]


class WorkbenchLM(TemplateLM):
    """Answers requests one after the other, in their order, so that the first documents' figures come
    first. What was answered is kept in ``responses``."""

    def __init__(self, model: Any, settings: Settings, cancelled: Callable[[], bool], responses: Responses,
                 told: Told) -> None:
        super().__init__()
        self.tokenizer, self._model, self._told = model.tokenizer, model, told
        self.scorer = Scorer(model, settings, cancelled, cut=responses.count("cut"))
        self.answerer = Answerer(model, settings, cancelled, responses.count("cut prompts"),
                                 responses.count("shortened"))
        self._cancelled, self._responses = cancelled, responses

    # -- tokens -----------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text. Raises SettingsError where the model has none."""
        ends = sorted(self._model.stops())
        if not ends:
            raise SettingsError("the model says no token that ends a text (eos_token_id), which lm-eval "
                                "puts before texts without context; add it to the model's config.json")
        own = getattr(self.tokenizer, "eos_token_id", None)
        return int(own) if own is not None and own in ends else int(ends[0])

    @property
    def prefix_token_id(self) -> int:
        """What a text without context follows: the token that begins texts, else the one that ends them."""
        begin = getattr(self.tokenizer, "bos_token_id", None)
        return self.eot_token_id if begin is None else int(begin)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids. Special tokens as the tokenizer has it, none where the text has its own beginning."""
        special = add_special_tokens
        if special is None:
            begin = getattr(self.tokenizer, "bos_token", None)
            special = not (begin and string.startswith(begin))
        return list(self.tokenizer(string, add_special_tokens=special, verbose=False)["input_ids"])

    # -- the three kinds of request ---------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Of ``(context, continuation)``: (log-probability in nats, greedy decoding says the same)."""
        found = []
        for request in requests:
            known = self._responses.known("loglikelihood", request.args)
            if known is None:
                known = super().loglikelihood([request], disable_tqdm=True)[0]
                self._keep("loglikelihood", request, list(known))
            found.append((float(known[0]), bool(known[1])))
            self._told(request, found[-1])
        return found

    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        self._check()
        return [self.scorer.score(list(context), list(continuation)) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Of ``(text,)``: its log-probability in nats, every token once, in windows of the model's size."""
        found = []
        for request in requests:
            known = self._responses.known("loglikelihood_rolling", request.args)
            if known is None:
                known = sum(self.scorer.score(list(a), list(b))[0] for a, b in self._windows(*request.args))
                self._keep("loglikelihood_rolling", request, known)
            found.append(float(known))
            self._told(request, found[-1])
        return found

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        self._check()
        return map(utils.make_disjoint_window, utils.get_rolling_token_windows(
            token_list=self.tok_encode(text), prefix_token=self.prefix_token_id,
            max_seq_len=self.scorer.most, context_len=1))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Of ``(context, generation arguments)``: the text up to its end, which is left out."""
        found: list[str] = []
        for batch in _alike(requests):
            fresh = [(at, r, w) for at, (r, w) in enumerate(batch) if self._text(r, w) is None]
            if fresh:
                self._check()
                texts = self.answerer.answer([r.args[0] for _, r, _ in fresh], fresh[0][2])
                for (_, request, wish), text in zip(fresh, texts, strict=True):
                    self._keep("generate_until", request, text, wish.turn)
            for request, wish in batch:
                found.append(str(self._text(request, wish)))
                self._told(request, found[-1])
        return found

    def _text(self, request: Any, wish: Wish) -> str | None:
        text: str | None = self._responses.known("generate_until", request.args, wish.turn)
        return text

    def _keep(self, kind: str, request: Any, response: Any, turn: int = 0) -> None:
        """The response, and what the model's positions took away so far."""
        self._responses.count("cut", self.scorer.cut)
        self._responses.count("cut prompts", self.answerer.cut_prompts)
        self._responses.count("shortened", self.answerer.shortened)
        self._responses.add(kind, request.args, response, turn)

    def _check(self) -> None:
        if self._cancelled():
            raise Cancelled("cancelled")

    # -- chats ------------------------------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", "")).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
                            ) -> str:
        """The conversation as the model's own template writes it. Raises SettingsError without one."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise SettingsError("the model's tokenizer has no chat template; evaluate without it")
        return str(self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt))


def _alike(requests: Sequence[Any]) -> Iterator[list[tuple[Any, Wish]]]:
    """Runs of at most ``BATCH`` requests with equal wishes, in order."""
    asked: dict[str, int] = {}
    wishes = []
    for request in requests:
        key = repr(request.args)
        wishes.append((request, Wish.of(request.args[1], asked.get(key, 0))))
        asked[key] = asked.get(key, 0) + 1
    at = 0
    while at < len(wishes):
        same = list(islice(wishes, at, at + BATCH))
        batch = same[:next((i for i, (_, w) in enumerate(same) if w != same[0][1]), len(same))]
        yield batch
        at += len(batch)
