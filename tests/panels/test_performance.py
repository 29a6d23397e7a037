"""Why, kernels, roofline, memory: on a real run of a tiny model, recorded, and on its failures."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import plotly.graph_objects as go
import pytest

from workbench import events as ev
from workbench.machine import this_machine
from workbench.panels import Content, panel
from workbench.panels import plain as as_plain
from workbench.settings import Settings
from workbench.shape import from_file
from workbench.store import Run, Store

KEYS = ("why", "kernels", "roofline", "memory")
CEILINGS = {"ram_bytes_per_s": 1e10, "gemm_bf16_flops": 1e12, "gemm_fp32_flops": 2e11}


def recorded(root: Path, events: list[ev.Event], settings: Settings, shape: Any = None,
             status: str = "done") -> Run:
    writer = Store(root).record(requested=settings, prompt="def f(", label=f"<b>{settings.label()}</b>")
    machine = dataclasses.replace(this_machine(), ceilings=CEILINGS)
    writer.run.record.environment["machine"] = machine.to_dict()
    if shape is not None:
        writer.run.record.environment["shape"] = dataclasses.asdict(shape)
    writer.add(events)
    return writer.finish(status=status)


@pytest.fixture(scope="module")
def runs(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """(this run, baseline): the same tiny model, int8 against bfloat16, module by module."""
    from workbench.runtime.model import load
    from workbench.telemetry import Monitor

    root, found = tmp_path_factory.mktemp("runs"), []
    for weights in ("bf16", "int8"):
        settings = Settings().with_({
            "model.source": str(tiny_config), "model.weights": "random", "weights": weights,
            "telemetry.preset": "deep", "telemetry.power": False, "limits.stop_at_eos": False,
            "limits.max_new_tokens": 12, "compute.threads": 1})
        model = load(settings, lambda event: None)
        events: list[ev.Event] = []
        monitor = Monitor(settings, model, events.append)
        monitor.start()
        try:
            model.generate(["def f("], settings, events.append, lambda: False, monitor)
        finally:
            monitor.stop()
            model.close()
        found.append(recorded(root, events, settings, from_file(tiny_config)))
    return found[1], found[0]


def drawn(key: str, run: Run, baseline: Run | None = None) -> Content:
    """The content; its figures are valid for Plotly, its values JSON."""
    content = panel(key).content(run, baseline)
    assert "could not be drawn" not in content.empty, content.empty
    json.dumps(as_plain(content), allow_nan=False)
    for figure in content.figures:
        go.Figure(figure)
    return content


@pytest.mark.parametrize("key", KEYS)
def test_every_panel_draws_a_real_run_alone_and_beside_another(key: str, runs: tuple[Run, Run]) -> None:
    for content in (drawn(key, runs[0]), drawn(key, *runs)):
        assert content.sentences
        assert content.figures
        assert any(t.rows for t in content.tables)


@pytest.mark.parametrize("key", KEYS)
def test_a_run_without_anything_says_what_to_do(key: str, tmp_path: Path) -> None:
    content = drawn(key, recorded(tmp_path, [], Settings()))
    assert len(content.empty) > 30


def test_the_bars_sum_to_the_difference_and_open_their_kernels(runs: tuple[Run, Run]) -> None:
    content = drawn("why", *runs)
    bars = next(t for t in content.tables if t.title.startswith("Bars"))
    at = list(bars.columns).index("difference ms")
    *rows, total = [r[at] for r in bars.rows]
    assert sum(rows) == pytest.approx(total, abs=1e-6)
    behind = next(t for t in content.tables if t.title.startswith("Behind"))
    opened = {r[0] for r in behind.rows}
    assert {"weights", "attention"} <= opened
    assert opened <= {r[0] for r in bars.rows}, "a row behind a bar that is not there"


def test_the_kernels_of_a_step_are_of_known_classes(runs: tuple[Run, Run]) -> None:
    from workbench.analysis.kernel_stream import attributed

    for run in runs:
        share = attributed(run.events)
        assert share is not None
        assert share > 0.97
    assert any("operators of a known class" in s for s in drawn("kernels", runs[0]).sentences)


def test_roofline_points_lie_under_their_times_and_know_their_modules(runs: tuple[Run, Run]) -> None:
    from workbench.analysis.roofline import ceilings_of, points

    found = points(runs[0].events, ceilings_of({"ceilings": CEILINGS}))
    assert found
    for p in found:
        assert p.floor_s == pytest.approx(max(p.moved / 1e10, p.flops / 1e12))
        assert p.seconds > 0
    tables = drawn("roofline", runs[0]).tables
    assert {"Decode", "Prefill"} <= {t.title.split(":")[0] for t in tables if t.rows}
    layers = next(t for t in tables if t.title == "By layer")
    assert {r[1] for r in layers.rows} == {0, 1, 2}


def test_without_ceilings_no_floor_is_made_up(runs: tuple[Run, Run], tmp_path: Path) -> None:
    run = recorded(tmp_path, list(runs[0].events), runs[0].requested)
    run.record.environment["machine"]["ceilings"] = {}
    content = drawn("roofline", run)
    assert "not measured" in content.sentences[0]
    decode = next(t for t in content.tables if t.title.startswith("Decode"))
    assert {r[list(decode.columns).index("floor")] for r in decode.rows} == {None}


def test_activations_are_measured_or_said_to_be_unknown(runs: tuple[Run, Run], tmp_path: Path) -> None:
    peak = next(t for t in drawn("memory", runs[0]).tables if t.title.startswith("Peak"))
    at = list(peak.columns).index("activations MiB")
    assert peak.rows[0][at] > 0
    blind = [msgspec.structs.replace(e, activations_bytes=0) if isinstance(e, ev.Memory) else e
             for e in runs[0].events if not isinstance(e, ev.KernelWindow)]
    content = drawn("memory", recorded(tmp_path, blind, runs[0].requested))
    peak = next(t for t in content.tables if t.title.startswith("Peak"))
    assert peak.rows[0][at] is None
    assert any("activations: not known" in s for s in content.sentences)


def test_advice_is_offered_and_judged_when_it_was_tried(runs: tuple[Run, Run]) -> None:
    run = runs[0]
    run.record.advice = {"of": "x", "label": "weights=int8", "changes": {"weights": "int8"},
                         "expects": {"tok_per_s": 1e9}, "before": {"tok_per_s": 1.0}}
    try:
        said = " ".join(drawn("why", run).sentences)
    finally:
        run.record.advice = {}
    assert "The advice was" in said
    assert "estimated" in said


# -- out of memory, really ----------------------------------------------------------------------

CHILD = """
import json, resource, sys
import msgspec, psutil
from workbench.engine import faults
from workbench.engine.executor import Executor
from workbench.engine.wire import Generate
from workbench.settings import Settings

events = []
executor = Executor(events.append)
settings = Settings.from_json(sys.argv[1])
room = psutil.Process().memory_info().vms + (700 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    executor.execute(Generate(run_id="r", settings=settings.to_dict(), prompts=["def f("]), lambda: False)
except Exception as error:
    name, said = faults.explain(error)
    print(json.dumps({"error": name, "said": said,
                      "events": [msgspec.to_builtins(e) for e in events]}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS binds on Linux")
def test_after_memory_ran_out_the_run_says_what_was_held_and_what_would_fit(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
              "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 4,
              "intermediate_size": 5632, "vocab_size": 4096, "max_position_embeddings": 512,
              "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "dtype": "bfloat16"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    settings = Settings().with_({"model.source": str(path), "model.weights": "random",
                                 "limits.max_new_tokens": 64, "telemetry.power": False,
                                 "compute.threads": 1})
    done = subprocess.run([sys.executable, "-c", CHILD, settings.to_json()], capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["error"] == "OutOfMemory", found["said"]
    events = [msgspec.convert(e, ev.AnyEvent) for e in found["events"]]
    failed = [e for e in events if isinstance(e, ev.MemoryFailure)]
    assert len(failed) == 1
    assert failed[0].tier == "ram"
    assert 0 < failed[0].held_bytes <= failed[0].limit_bytes
    assert "address space" in failed[0].limit
    content = drawn("memory", recorded(tmp_path / "runs", events, settings, from_file(path), "failed"))
    assert content.sentences[0].startswith("Memory ran out while loading the model")
    assert content.actions, "nothing was offered"
    for action in content.actions:
        settings.with_(dict(action.changes)).check(from_file(path), this_machine())
    assert "weights=int8" not in [a.label for a in content.actions], "700 MB and all else do not fit into 700"
