"""What a method costs once the fallback has seen it not pay: the rest of the text against plain decoding's.

    python benchmarks/decoding/fallback.py [MODEL] [--new 400] [--repeats 3] [--clock cpu] [--out FILE]

Every method decodes long texts with the fallback on, in turns with plain decoding, which is the same text
token by token. Where a run says that it decodes plainly from a token on, the seconds from there to the end
(new looks included) are compared with plain decoding's for the same tokens; runs in which the method pays to
the end are counted and left out. The bar: not more than 3 % slower (median of the pairs).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench import events as ev
from workbench.runtime import load
from workbench.settings import Settings
from workbench.speculation import prompts
from workbench.speculation.measuring import CLOCKS
from workbench.store.environment import collect

METHODS = ("jacobi", "speculative_jacobi", "input_copy", "prompt_lookup", "token_recycling",
           "adaptive_tables", "draft_model", "optimal_tree", "medusa", "eagle", "clover", "hidden_transfer",
           "ppd", "easyspec")
#: Slower than plain decoding by more is too much.
BAR = 0.97
#: Fewer tokens after the switch say nothing.
LEAST = 64


def timed(model: Any, settings: Settings, prompt: str, now: Callable[[], float]
          ) -> tuple[list[int], list[float], int | None]:
    """(ids, second of every token, the number of tokens that were there when it gave up or None)."""
    seen: list[ev.Event] = []
    zero = now()
    model.generate([prompt], settings, seen.append, lambda: False, clock=lambda: now() - zero)
    ids: list[int] = []
    at: list[float] = []
    left: int | None = None
    for event in seen:
        if isinstance(event, ev.Token):
            ids.append(event.id)
            at.append(event.t_s)
        elif isinstance(event, ev.Note) and left is None and "decoding plainly" in event.text:
            left = len(ids)
    return ids, at, left


def rest(at: list[float], first: int) -> float:
    """Seconds from token ``first`` to the last one."""
    return at[-1] - at[first]


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and quartiles of the ratios (above 1: faster than plain), and what was left out."""
    ratios = [f["ratio"] for f in found if f["ratio"] is not None]
    low, high = (min(ratios), max(ratios)) if ratios else (None, None)
    if len(ratios) > 1:
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"runs": len(found), "gave_up": len(ratios), "same_texts": sum(f["same"] for f in found),
            "ratio": statistics.median(ratios) if ratios else None, "low": low, "high": high,
            "whole": statistics.median(f["whole"] for f in found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="bundled")
    parser.add_argument("--weights", default="bf16")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--kinds", nargs="+", default=["code", "prose", "chat"])
    parser.add_argument("--new", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall",
                        help="cpu: seconds of this process, one thread: for a machine that others use")
    parser.add_argument("--seconds", type=float, default=170.0,
                        help="begin no other method after so many (exit code 3: call again)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fallback.json")
    given = parser.parse_args()
    began = time.monotonic()
    threads = 1 if given.clock == "cpu" else 0
    base = Settings().with_({
        "model.source": given.model, "weights": given.weights, "limits.max_new_tokens": given.new,
        "limits.stop_at_eos": False, "sampling.temperature": 0.0, "telemetry.preset": "off",
        "telemetry.power": False, "compute.threads": threads})
    about = {"model": Path(given.model).name, "weights": given.weights, "new": given.new,
             "repeats": given.repeats, "kinds": given.kinds, "clock": given.clock}
    kept = json.loads(given.out.read_text("utf-8")) if given.out.is_file() else {}
    if {k: kept.get(k) for k in about} != about:
        kept = {**about, "environment": collect(), "methods": {}}
    model = load(base, lambda event: None)
    kept["executor"] = model.forward.describe()
    print(model.forward.describe(), flush=True)  # module by module, times would say something else
    texts = [prompts.bundled(1)[kind][0].text for kind in given.kinds]
    for method in [m for m in given.methods if m not in kept["methods"]]:
        if time.monotonic() - began > given.seconds:
            sys.exit(3)
        kept["methods"][method] = found = summary(pairs(model, base, method, texts, given.repeats,
                                                        CLOCKS[given.clock]))
        given.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        said = "paid to the end" if found["ratio"] is None else (
            f"{found['ratio']:.3f} x plain afterwards ({found['low']:.3f} to {found['high']:.3f})")
        print(f"{method}: gave up in {found['gave_up']} of {found['runs']} runs, {said}, "
              f"{found['whole']:.2f} x over the whole text", flush=True)
    late = {m: f["ratio"] for m, f in kept["methods"].items() if f["ratio"] is not None and f["ratio"] < BAR}
    print(f"below {BAR}: {late or 'none'}")


def pairs(model: Any, base: Settings, method: str, texts: list[str], repeats: int,
          now: Callable[[], float]) -> list[dict[str, Any]]:
    """The method and plain decoding of every prompt, in turns; the order changes from turn to turn."""
    drafted = base.with_({"decoding": method})
    timed(model, drafted.with_({"limits.max_new_tokens": 8}), texts[0], now)
    found = []
    for turn in range(repeats):
        for number, text in enumerate(texts):
            both: dict[str, tuple[list[int], list[float], int | None]] = {}
            order = [("plain", base), (method, drafted)]
            for name, settings in order if (turn + number) % 2 else order[::-1]:
                both[name] = timed(model, settings, text, now)
            ids, at, left = both[method]
            wanted, plain, _ = both["plain"]
            after = left is not None and len(ids) - left >= LEAST
            found.append({"same": ids == wanted, "whole": rest(plain, 0) / rest(at, 0), "left": left,
                          "ratio": rest(plain, left or 0) / rest(at, left or 0) if after else None})
    return found


if __name__ == "__main__":
    main()
