"""The command line: one small file per command, loaded when it is called.

Data goes to stdout (one JSON document with ``--json``), everything else to stderr. Exit codes:
0 done; 1 the work failed; 2 a bad value, with one line that names the valid ones; 130 cancelled.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from workbench.errors import Cancelled, SettingsError, WorkbenchError

#: command -> (module, one help line). The module is imported when the command is called.
COMMANDS = {
    "demo": ("demo", "baseline against int4 and int4 + draft on the bundled model, with a report"),
    "run": ("run", "generate text and measure it"),
    "bench": ("bench", "prefill and decode speed, repeated and interleaved"),
    "check-decoding": ("check_decoding", "is a drafting method's text the plain target's own, by token?"),
    "compare": ("compare", "recorded runs side by side"),
    "trace": ("trace", "any trace file: launches, idle time by cause, critical path, fusing"),
    "explain": ("explain", "a question about a run answered: why slower, how far from the floor"),
    "profile": ("profile", "any torch module: kernels by module, floors, memory; a gallery of stand-ins"),
    "fingerprint": ("fingerprint", "which configuration produced these logits; did mine change?"),
    "report": ("report", "one self-contained HTML file from recorded runs"),
    "replay": ("replay", "play a recorded run in the terminal"),
    "save": ("save", "the model with its weights setting as a compressed-tensors checkpoint"),
    "evaluate": ("evaluate", "schemes beside each other: size, perplexity, KL, tasks, with error bars"),
    "plan": ("plan", "which matrix needs how many bits; the best mixture under a budget"),
    "export": ("export", "settings as Python, YAML, vllm or llama-server flags"),
    "heads": ("heads", "small modules that draft for a model: train, list"),
    "gguf": ("gguf", "the model as a GGUF file, for llama.cpp and what reads its format"),
    "quantize": ("quantize", "a quantized checkpoint in a format that other engines load"),
    "runs": ("runs", "list, rename or delete recorded runs"),
    "models": ("models", "the bundled models"),
    "techniques": ("techniques", "the catalogue, or one technique"),
    "power": ("power", "power sensors, idle power, caps, models of power"),
    "doctor": ("doctor", "what this machine has and what follows"),
    "lab": ("lab", "JupyterLab with the tutorials"),
    "serve": ("serve", "the dashboard as a web app"),
    "engine": ("engine", "an engine for other machines to use"),
}


class Commands(click.Group):
    """Loads a command's module on use, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"workbench.cli.{COMMANDS[name][0]}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from workbench.errors import one_of

        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise SettingsError(one_of("command", args[0], list(COMMANDS)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="inference-workbench", prog_name="workbench")
def group() -> None:
    """Make LLM inference faster, smaller and cheaper, and see why."""


def main(args: list[str] | None = None) -> None:
    """Entry point: every expected failure is one line on stderr and an exit code."""
    sys.exit(run_command(args))


def run_command(args: list[str] | None = None) -> int:
    """As :func:`main`, returning the exit code."""
    try:
        result = group.main(args, prog_name="workbench", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        return _fail(error.format_message(), 2)
    except click.ClickException as error:
        return _fail(error.format_message(), 1)
    except SettingsError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, click.Abort, Cancelled):
        return _fail("cancelled; what had finished is kept", 130)
    except WorkbenchError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        return 0


def _fail(text: str, code: int) -> int:
    click.echo("error: " + " ".join(text.split()), err=True)
    return code
