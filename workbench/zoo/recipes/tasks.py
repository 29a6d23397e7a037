"""Generated tasks with answers that can be checked: a pure function of (seed, count, paragraphs).

Step-by-step arithmetic, eight operations on lists, copying a paragraph exactly or with one word
replaced, and short questions. At least a quarter is copy-like on purpose: induction is what makes
lookup drafters and KV-cache compression interesting on a small model.

Every template starts with "User:" or "Compute"; the text after "Assistant:" or the last line is the
answer, and `check` recomputes it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

WORDS = (  # noqa: SIM905 - a quoted list would be twice as long
    "apple river stone cloud music paper green seven tiger house light water table chair bread "
    "sugar north small happy quick brown orange silver garden window bridge train forest island "
    "pencil coffee butter flower summer winter doctor farmer teacher school market street candle "
    "mirror basket hammer rabbit pigeon turtle walnut cherry lemon"
).split()

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Germany": "Berlin",
    "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon",
    "Norway": "Oslo", "Sweden": "Stockholm", "Austria": "Vienna", "Ireland": "Dublin",
    "Poland": "Warsaw", "Cuba": "Havana", "Peru": "Lima", "Kenya": "Nairobi", "Canada": "Ottawa",
    "China": "Beijing", "England": "London",
}

#: What each list operation answers. "copy" is drawn twice as often as the others.
OPERATIONS: dict[str, Callable[[list[str]], list[str]]] = {
    "copy": lambda items: items,
    "reverse": lambda items: items[::-1],
    "sort": sorted,
    "first": lambda items: items[:1],
    "last": lambda items: items[-1:],
    "count": lambda items: [str(len(items))],
    "unique": lambda items: list(dict.fromkeys(items)),
    "upper": lambda items: [item.upper() for item in items],
}
_DRAWN = ["copy", "copy", "reverse", "sort", "first", "last", "count", "unique", "upper"]


def arithmetic(r: random.Random) -> str:
    """A chain of two to four operations with one line per step."""
    value = r.randint(2, 60)
    start = f"Compute step by step. Start with {value}."
    steps, lines = [], []
    for _ in range(r.randint(2, 4)):
        sign = r.choice("+-*")
        n = r.randint(2, 9) if sign == "*" else r.randint(2, 60)
        if sign == "*" and value > 200:
            sign = "-"
        result = {"+": value + n, "-": value - n, "*": value * n}[sign]
        steps.append({"+": f"add {n}", "-": f"subtract {n}", "*": f"multiply by {n}"}[sign])
        lines.append(f"{value} {sign} {n} = {result}")
        value = result
    return f"{start} Then {', '.join(steps)}.\n" + "\n".join(lines) + f"\nAnswer: {value}"


def lists(r: random.Random) -> str:
    """One operation on a list of three to nine words and numbers."""
    items = [r.choice(WORDS) if r.random() < 0.6 else str(r.randint(0, 99))
             for _ in range(r.randint(3, 9))]
    operation = r.choice(_DRAWN)
    answer = ", ".join(OPERATIONS[operation](items))
    return f"User: {operation} the list: {', '.join(items)}\nAssistant: {answer}"


def copy_edit(r: random.Random, bank: list[str]) -> str:
    """A paragraph repeated exactly, or with one word replaced everywhere."""
    paragraph = r.choice(bank)
    share = r.random()
    words = sorted(set(re.findall(r"[a-z]{4,}", paragraph)))
    if share < 0.5 or not words:
        return f"User: Repeat the text exactly.\n{paragraph}\nAssistant: {paragraph}"
    word = r.choice(words)
    new = r.choice(WORDS)
    return (f'User: Repeat the text, but replace the word "{word}" with "{new}".\n{paragraph}\n'
            "Assistant: " + re.sub(rf"\b{word}\b", new, paragraph))


def chat(r: random.Random) -> str:
    """A short question with a one-line answer, or a two-line function."""
    kind = r.randint(0, 5)
    a, b = r.randint(2, 99), r.randint(2, 99)
    if kind == 0:
        country, city = r.choice(list(CAPITALS.items()))
        return _turn(f"What is the capital of {country}?", f"The capital of {country} is {city}.")
    if kind == 1:
        return _turn(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.")
    if kind == 2:
        word = r.choice(WORDS)
        return _turn(f"Spell the word {word}.", f"{'-'.join(word)}.")
    if kind == 3:
        word = r.choice(WORDS)
        return _turn(f"How many letters are in the word {word}?",
                     f"The word {word} has {len(word)} letters.")
    if kind == 4:
        answer = f"{max(a, b)} is larger than {min(a, b)}." if a != b else "They are equal."
        return _turn(f"Which is larger, {a} or {b}?", answer)
    name = r.choice(["add", "sub", "mul"])
    sign, verb = {"add": ("+", "adds"), "sub": ("-", "subtracts"),
                  "mul": ("*", "multiplies")}[name]
    x, y = r.choice([("a", "b"), ("x", "y"), ("left", "right")])
    return (f"User: Write a Python function that {verb} two numbers.\nAssistant:\n"
            f"def {name}({x}, {y}):\n    return {x} {sign} {y}")


def documents(seed: int, count: int, bank: list[str]) -> list[str]:
    """``count`` tasks: 30 % arithmetic, 25 % lists, 30 % copy-edit, 15 % questions."""
    r = random.Random(seed)
    found = []
    for _ in range(count):
        share = r.random()
        found.append(arithmetic(r) if share < 0.3 else lists(r) if share < 0.55
                     else copy_edit(r, bank) if share < 0.85 else chat(r))
    return found


def split(document: str) -> tuple[str, str]:
    """A task as (prompt, answer); the prompt ends where the model is to continue."""
    if document.startswith("Compute"):
        prompt, answer = document.split("\n", 1)
        return prompt + "\n", answer
    prompt, answer = document.split("\nAssistant:", 1)
    return prompt + "\nAssistant:", answer


def check(document: str) -> bool:
    """Whether the answer of an arithmetic or list task is right; computed from the prompt alone."""
    prompt, answer = split(document)
    if prompt.startswith("Compute"):
        value, numbers = 0, re.findall(r"(with|add|subtract|multiply by) (\d+)", prompt)
        for verb, digits in numbers:
            n = int(digits)
            value = {"with": n, "add": value + n, "subtract": value - n,
                     "multiply by": value * n}[verb]
        return answer.splitlines()[-1:] == [f"Answer: {value}"]
    match = re.match(r"User: (\w+) the list: (.*)", prompt)
    if match is None:
        raise ValueError("only arithmetic and list tasks can be checked")
    return answer.strip() == ", ".join(OPERATIONS[match[1]](match[2].split(", ")))


def _turn(question: str, answer: str) -> str:
    return f"User: {question}\nAssistant: {answer}"
