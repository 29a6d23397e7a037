"""Ten list operations in the manner of ParallelBench (arXiv:2510.04767), additions, and their checks.

One item is one token, so that the closed forms of parallel decoding hold: with independent draws from
perfect marginals a shuffle of n items is a permutation with probability n! / n^n, and replacing one
item at random succeeds with (1 - 1/n)^(n - 1). A pure function of (seed, index).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

WORDS = (  # noqa: SIM905 - a quoted list would be twice as long
    "acorn apple badge bread cabin candle daisy drum eagle engine fern flute garden glove hammer "
    "island jacket kettle ladder lemon maple mirror needle ocean olive pencil quartz ribbon saddle "
    "tiger umbrella violin walnut yarn zebra"
).split()
DIGITS = [str(d) for d in range(10)]
SPECIAL = ["<pad>", "<eos>", "<mask>", "="]
TASKS = ("copy", "reverse", "sort", "shuffle", "insert", "remove", "replace",
         "insert-random", "remove-random", "replace-random", "add")
VOCABULARY = [*SPECIAL, *TASKS, *DIGITS, "+", *WORDS]
#: Tasks with one right answer; the others accept every valid one.
DETERMINED = ("copy", "reverse", "sort", "insert", "remove", "replace", "add")
CANVAS = 12
PROMPT = 14
LEAST, MOST = 4, 9


@dataclass(frozen=True)
class Example:
    """``prompt`` ends with "="; ``answer`` is one valid answer, without its end."""

    task: str
    prompt: tuple[str, ...]
    answer: tuple[str, ...]

    @property
    def items(self) -> list[str]:
        """The list that the prompt gives."""
        return [w for w in self.prompt if w in _WORD_SET and w != self.extra]

    @property
    def extra(self) -> str:
        """The word to put in, empty when the task has none."""
        return self.prompt[1] if self.task.startswith(("insert", "replace")) else ""


_WORD_SET = frozenset(WORDS)


def example(task: str, seed: int, n: int | None = None) -> Example:
    """One task; ``n`` items (4 to 9 when it is not given; digits for ``add``)."""
    r = random.Random(f"{task}/{seed}")
    if task == "add":
        return _addition(r, n)
    n = n or r.randint(LEAST, MOST - (1 if task.startswith("insert") else 0))
    words = r.sample(WORDS, n + 1)
    items, extra = words[:n], words[n]
    place = r.randrange(n)
    head: list[str] = [task]
    if task.startswith(("insert", "replace")):
        head.append(extra)
    if task in ("insert", "remove", "replace"):
        head.append(str(place))
    return Example(task, (*head, *items, "="), tuple(_answer(task, items, extra, place, r)))


def _answer(task: str, items: list[str], extra: str, place: int, r: random.Random) -> list[str]:
    if task == "copy":
        return items
    if task == "reverse":
        return items[::-1]
    if task == "sort":
        return sorted(items)
    if task == "shuffle":
        return r.sample(items, len(items))
    kind = task.split("-")[0]
    if kind == "insert":
        return [*items[:place], extra, *items[place:]]
    if kind == "remove":
        return items[:place] + items[place + 1:]
    return [*items[:place], extra, *items[place + 1:]]


def _addition(r: random.Random, n: int | None) -> Example:
    """Two numbers of n digits; every digit of the sum depends on the carries to its right."""
    n = n or r.randint(2, 4)
    a, b = (r.randint(10 ** (n - 1), 10 ** n - 1) for _ in range(2))
    return Example("add", ("add", *str(a), "+", *str(b), "="), tuple(str(a + b).zfill(n + 1)))


def right(given: Example, answer: Sequence[str]) -> bool:
    """Whether an answer (up to its end) is valid; where several are, any of them."""
    found, items = list(answer), given.items
    if given.task in DETERMINED:
        return found == list(given.answer)
    if given.task == "shuffle":
        return sorted(found) == sorted(items) and found != items
    if given.task == "remove-random":
        return any(found == items[:i] + items[i + 1:] for i in range(len(items)))
    if given.task == "insert-random":
        return found.count(given.extra) == 1 and [w for w in found if w != given.extra] == items
    changed = [i for i, (a, b) in enumerate(zip(found, items, strict=False)) if a != b]
    return len(found) == len(items) and len(changed) == 1 and found[changed[0]] == given.extra


def one_shot(task: str, n: int) -> float:
    """The chance that independent draws from perfect marginals are right at once."""
    if task == "shuffle":
        return math.factorial(n) / n ** n - 1 / n ** n
    if task == "replace-random":
        return (1 - 1 / n) ** (n - 1)
    if task in DETERMINED:
        return 1.0
    raise ValueError(f"there is no closed form for {task}")
