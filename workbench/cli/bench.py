"""``workbench bench``: pp and tg speeds as mean ± std over repeats, candidates interleaved.

``ppN`` is the prefill rate on a prompt of N tokens, ``tgN`` the decode rate over N new tokens.
Every repeat goes through all candidates before the next one, so that drift hits them alike.
"""

from __future__ import annotations

import importlib
import statistics
from typing import TYPE_CHECKING, Any

import click

from workbench.cli.common import (
    console,
    metric_value,
    open_session,
    print_json,
    settings_from,
    settings_options,
    split_pair,
    text_table,
)
from workbench.errors import SettingsError

if TYPE_CHECKING:
    from workbench.session import Session
    from workbench.settings import Settings


#: subcommand -> (module, one help line).
PARTS = {"decoding": ("bench_decoding", "every drafting method beside plain decoding, by kind of prompt"),
         "compression": ("bench_compression", "compressed weights beside each other: size, quality, speed"),
         "draft": ("bench_draft", "the fastest drafting method and length for this model here"),
         "diffusion": ("bench_diffusion", "quality against parallelism of masked-diffusion decoders")}


class Parts(click.Group):
    """Loads a subcommand's module on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(PARTS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in PARTS:
            return None
        found: click.Command = importlib.import_module(f"workbench.cli.{PARTS[name][0]}").command
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in PARTS:
            raise SettingsError(f"`workbench bench {args[0]}` does not exist; it is `workbench bench` with "
                                f"options, or `workbench bench {'` or `workbench bench '.join(PARTS)}`")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in PARTS.items()])


@click.group("bench", cls=Parts, invoke_without_command=True)
@click.option("--against", multiple=True, metavar="NAME=VALUE,NAME=VALUE",
              help="a candidate: the settings changed from the baseline; may be repeated")
@click.option("--prompt-tokens", "-pp", default=512, show_default=True, type=click.IntRange(1))
@click.option("--new-tokens", "-tg", default=128, show_default=True, type=click.IntRange(2))
@click.option("--repeats", "-r", default=5, show_default=True, type=click.IntRange(1))
@click.option("--limit", is_flag=True,
              help="where a step's time goes: bytes, floor at the measured bandwidth, host")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
@click.pass_context
def command(context: click.Context, against: tuple[str, ...], prompt_tokens: int, new_tokens: int,
            repeats: int, limit: bool, as_json: bool, **options: Any) -> None:
    """Measure prefill and decode speed, repeated after a warm-up and interleaved."""
    if context.invoked_subcommand is not None:
        return None
    base = settings_from(options).with_({"limits.max_new_tokens": new_tokens,
                                         "limits.stop_at_eos": False})
    candidates = [("baseline", base)]
    for text in against:
        changes = dict(split_pair(p) for p in text.split(",") if p.strip())
        candidates.append((text, base.with_(changes)))
    with open_session(base) as session:
        if limit:
            return _limits(session, candidates, prompt_tokens, as_json)
        rows = measure(session, candidates, prompt_tokens, repeats)
    if as_json:
        return print_json({"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats,
                           "rows": rows})
    table = [[r["name"], _pm(r["pp"]), _pm(r["tg"]), _x(r["pp_ratio"]), _x(r["tg_ratio"])]
             for r in rows]
    console().print(text_table("", ["settings", f"pp{prompt_tokens} tok/s", f"tg{new_tokens} tok/s",
                                    "pp ratio", "tg ratio"], table))
    return None


def _limits(session: Session, candidates: list[tuple[str, Settings]], prompt_tokens: int,
            as_json: bool) -> None:
    from workbench.cli import bench_limit

    found = bench_limit.measure(session, candidates, prompt_of(session, prompt_tokens))
    if as_json:
        return print_json({"prompt_tokens": prompt_tokens,
                           "rows": [bench_limit.as_json(name, f) for name, _, f in found]})
    for name, _, f in found:
        bench_limit.show(name, f)
    return None


def measure(session: Session, candidates: list[tuple[str, Settings]], prompt_tokens: int,
            repeats: int) -> list[dict[str, Any]]:
    """One dict per candidate; ratios are medians over pairs of the same repeat."""
    prompt = prompt_of(session, prompt_tokens)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in candidates}
    with console(stderr=True).status("warming up") as status:
        for repeat in range(-1, repeats):
            for name, settings in candidates:
                status.update(f"{name}, " + ("warm-up" if repeat < 0 else f"repeat {repeat + 1}"))
                run = session.run(prompt, label=f"bench {name}", wait=True, settings=settings)
                if repeat >= 0:
                    rates[name].append((metric_value(run, "prefill_tok_per_s") or float("nan"),
                                        metric_value(run, "tok_per_s") or float("nan")))
                session.store.delete(run.id)
    first = rates[candidates[0][0]]
    return [_summary(name, values, first) for name, values in rates.items()]


def prompt_of(session: Session, tokens: int) -> str:
    """Bundled text cut to about this many tokens, with the bundled tokenizer's own count."""
    from tokenizers import Tokenizer

    from workbench import zoo

    text = "\n\n".join(d.text for d in zoo.evaluation_text())
    tokenizer = Tokenizer.from_file(str(zoo.path(zoo.DEFAULT) / "tokenizer.json"))
    ids = tokenizer.encode(text).ids
    if len(ids) < tokens:
        ids = (ids * (tokens // len(ids) + 1))
    room = session.shape.max_positions if session.shape else tokens
    if tokens >= room:
        raise SettingsError(f"--prompt-tokens {tokens} does not fit the model's {room} positions")
    return tokenizer.decode(ids[:tokens])


def _summary(name: str, values: list[tuple[float, float]],
             first: list[tuple[float, float]]) -> dict[str, Any]:
    def spread(column: int) -> dict[str, float]:
        series = [v[column] for v in values]
        return {"mean": statistics.fmean(series),
                "std": statistics.stdev(series) if len(series) > 1 else 0.0}

    def ratio(column: int) -> float:
        return statistics.median(v[column] / f[column] for v, f in zip(values, first, strict=True))

    return {"name": name, "pp": spread(0), "tg": spread(1), "pp_ratio": ratio(0),
            "tg_ratio": ratio(1), "samples": [list(v) for v in values]}


def _pm(value: dict[str, float]) -> str:
    return f"{value['mean']:.1f} ± {value['std']:.1f}"


def _x(value: float) -> str:
    return f"{value:.2f}x"
