"""Exports that run, parse and round-trip, and drop nothing in silence."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess

import pytest

from workbench.errors import SettingsError
from workbench.export import FORMATS, export
from workbench.export.python import changes
from workbench.settings import Settings
from workbench.settings.tree import FAMILIES
from workbench.techniques.base import family

CHOICES = [{f: name} for f, (folder, _) in FAMILIES.items() for name in family(folder)]
MIXED = {"weights": "int4", "weights.group": 32, "kv": "int8", "decoding": "draft_model",
         "decoding.gamma": 6, "decoding.draft": "org/draft", "sampling.temperature": 0.7,
         "sampling.top_k": 40, "compute.threads": 2, "seed": 11, "model.source": "org/name with 'quotes'"}


def words(script: str) -> list[str]:
    """The last command of a script, as a shell would split it."""
    lines = [line for line in script.replace("\\\n", " ").splitlines() if not line.startswith("#")]
    return shlex.split(lines[-1])


def flag(script: str, name: str) -> str:
    found = words(script)
    return found[found.index(name) + 1]


@pytest.mark.parametrize("chosen", [{}, MIXED, *CHOICES])
def test_changes_make_the_same_settings(chosen):
    settings = Settings().with_(chosen)
    assert Settings().with_(changes(settings)) == settings


@pytest.mark.parametrize("chosen", [{}, MIXED, {"model.weights": "random", "weights": "int8"}])
def test_python_runs(chosen, monkeypatch, capsys):
    """Executed against a stand-in for the engine: what it opens is what was exported."""
    import workbench
    from workbench.events import Metric

    seen = {}

    class Bench:
        def run(self, prompt=None, wait=False):
            seen["prompt"] = prompt
            self.text, self.metrics = "text", {"a": Metric(name="a", value=1.0)}
            return self

        def close(self):
            seen["closed"] = True

    def opened(model="bundled", *, weights=None, **more):
        source = {"model.source": model}
        if weights is not None:
            more["weights"] = weights
        seen["settings"] = Settings().with_({**source, **more})
        return Bench()

    monkeypatch.setattr(workbench, "open", opened, raising=False)
    settings = Settings().with_(chosen)
    exec(compile(export(settings, "python", prompt='say "x"\n'), "exported.py", "exec"), {})
    assert seen == {"settings": settings, "prompt": 'say "x"\n', "closed": True}
    assert capsys.readouterr().out.startswith("text\n")


@pytest.mark.slow
def test_python_opens_a_real_session(tiny_config):
    """The script as a user runs it, on a model made on the spot, in a process of its own."""
    import sys

    settings = Settings().with_({
        "model.source": str(tiny_config), "model.weights": "random", "limits.max_new_tokens": 4,
        "decoding": "prompt_lookup", "telemetry.preset": "off", "telemetry.power": False})
    done = subprocess.run([sys.executable, "-c", export(settings, prompt="a b a b")],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "new_tokens 4" in done.stdout


@pytest.mark.parametrize("chosen", [{}, MIXED, *CHOICES])
def test_yaml_and_json_round_trip(chosen):
    settings = Settings().with_(chosen)
    assert Settings.from_yaml(export(settings, "yaml")) == settings
    assert Settings.from_json(export(settings, "json")) == settings


@pytest.mark.parametrize("to", ["vllm", "llama-server"])
@pytest.mark.parametrize("chosen", [{}, MIXED, *CHOICES, {"model.source": "$(touch x); `id`"}])
def test_shell_scripts_parse(to, chosen):
    script = export(Settings().with_(chosen), to)
    found = words(script)
    assert found[:2] == ["vllm", "serve"] if to == "vllm" else found[0] == "llama-server"
    assert all(w.strip() for w in found)
    if shutil.which("sh"):
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("to", ["vllm", "llama-server"])
@pytest.mark.parametrize("chosen", CHOICES)
def test_nothing_is_dropped_in_silence(to, chosen):
    """Every choice and every knob of a chosen method is a flag or is named in a comment."""
    from workbench.export import llama, shell, vllm

    made = []
    original = shell.Command.text
    try:
        shell.Command.text = lambda self: made.append(self) or original(self)
        script = (vllm if to == "vllm" else llama).command(Settings().with_(chosen))
    finally:
        shell.Command.text = original
    for path in made[0].rest():
        assert f"# {path}=" in script
    owner = next(iter(chosen))
    if chosen[owner] != FAMILIES[owner][1]:
        settled = made[0].settings.flat()
        assert all(p in made[0]._said or f"# {p}=" in script
                   for p in settled if p.partition(".")[0] == owner)


def test_vllm_flags():
    script = export(Settings().with_(MIXED), "vllm")
    assert words(script)[2] == "org/name with 'quotes'"
    assert flag(script, "--kv-cache-dtype") == "fp8"
    assert json.loads(flag(script, "--override-generation-config")) == {
        "temperature": 0.7, "top_p": 1.0, "top_k": 40}
    spec = json.loads(flag(script, "--speculative-config"))
    assert spec["num_speculative_tokens"] == 6
    assert "W4A16_ASYM" in script
    lookup = export(Settings().with_({"decoding": "prompt_lookup"}), "vllm")
    assert json.loads(flag(lookup, "--speculative-config"))["method"] == "ngram"


def test_llama_server_flags():
    script = export(Settings().with_({**MIXED, "weights.symmetric": True, "compute.device": "cpu"}),
                    "llama-server")
    assert flag(script, "--model") == "model-Q4_0.gguf"
    assert flag(script, "--cache-type-k") == "q8_0"
    assert flag(script, "--spec-draft-n-max") == "6"
    assert flag(script, "--temp") == "0.7"
    assert flag(script, "--n-gpu-layers") == "0"
    assert flag(script, "--threads") == "2"
    assert "llama-quantize model-BF16.gguf model-Q4_0.gguf Q4_0" in script


def test_the_bundled_model_is_found_by_the_script():
    script = export(Settings().with_({"decoding": "draft_model"}), "vllm")
    assert 'MODEL=$(python -c "from workbench import zoo' in script
    assert words(script)[2] == "$MODEL"
    assert json.loads(flag(script, "--speculative-config"))["model"] == "$DRAFT"


def test_an_unknown_format_names_the_valid_ones():
    with pytest.raises(SettingsError, match="python, yaml, json, vllm, llama-server"):
        export(Settings(), "ollama")
    assert all(export(Settings(), f) for f in FORMATS)
