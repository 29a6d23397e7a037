"""The real executor in a real worker process, on a tiny random model: one process for all tests."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from workbench import errors, zoo
from workbench import events as ev
from workbench.engine.client import Engine, Evaluate, Generate, Load, Unload
from workbench.settings import Settings


class Hub(http.server.BaseHTTPRequestHandler):
    """Stands where the model hub would be, and counts who asks."""

    asked: list[str]

    def do_GET(self) -> None:
        Hub.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def engine(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("engine")))
        patch.setenv("OMP_NUM_THREADS", "1")
        with Engine.start() as engine:
            yield engine


def random(config: Path, **changes: Any) -> Settings:
    quiet = {"telemetry.preset": "off", "telemetry.power": False, "limits.max_new_tokens": 8,
             "limits.stop_at_eos": False}
    return Settings().with_({"model.source": str(config), "model.weights": "random", **quiet,
                             **changes})


def generate(settings: Settings, run: str = "r1", prompt: str = "def add(a, b):\n") -> Generate:
    return Generate(run_id=run, settings=settings.to_dict(), prompts=[prompt])


def config_of(path: Path, tiny: Path, **changes: Any) -> Path:
    """Another config of the same family."""
    path.mkdir()
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(tiny.read_text()), **changes}))
    return file


def test_a_run_from_settings_to_tokens(engine: Engine, tiny_config: Path) -> None:
    settings = random(tiny_config)
    assert engine.submit(generate(settings)).wait(120) == {"new_tokens": 8, "ended": ["length"]}
    events = engine.poll()
    of_run = [e for e in events if e.run == "r1"]
    assert len([e for e in of_run if isinstance(e, ev.Token)]) == 8
    assert isinstance(of_run[-1], ev.RunEnded)
    assert (of_run[-1].status, of_run[-1].new_tokens) == ("done", 8)
    started = next(i for i, e in enumerate(of_run) if isinstance(e, ev.RunStarted))
    assert all(e.t_s == 0 for e in of_run[:started] if isinstance(e, ev.EngineState | ev.Memory)
               and e.t_s < 0)
    after = [e.t_s for e in of_run[started:] if isinstance(e, ev.Token | ev.Phase | ev.Memory)]
    assert after == sorted(after)
    assert 0 < after[-1] < 60
    paths = {e.path for e in of_run if isinstance(e, ev.Effective)}
    assert paths >= set(settings.flat())
    states = [e.state for e in events if isinstance(e, ev.EngineState)]
    assert states == ["ready", "loading", "running", "ready"]
    assert engine.state == "ready"


def states(engine: Engine) -> list[str]:
    return [e.state for e in engine.poll() if isinstance(e, ev.EngineState)]


def test_only_what_changed_is_loaded_again(engine: Engine, tiny_config: Path) -> None:
    engine.submit(generate(random(tiny_config))).wait(60)
    states(engine)
    for same in ({"limits.max_new_tokens": 4}, {"kv": "int8"}, {"sampling.temperature": 0.5},
                 {"telemetry.preset": "light"}, {"decoding": "prompt_lookup"}):
        engine.submit(generate(random(tiny_config, **same))).wait(60)
        assert "loading" not in states(engine), same
    for other in ({"weights": "int8"}, {"seed": 3}):
        engine.submit(generate(random(tiny_config, **other))).wait(60)
        assert "loading" in states(engine), other


def test_threads_return_to_the_default(engine: Engine, tiny_config: Path) -> None:
    def threads(**changes: Any) -> str:
        settings = random(tiny_config, **{"limits.max_new_tokens": 1}, **changes)
        engine.submit(generate(settings)).wait(60)
        return next(e.effective for e in engine.poll()
                    if isinstance(e, ev.Effective) and e.path == "compute.threads")

    before = threads()
    assert threads(**{"compute.threads": 2}) == "2"
    assert threads() == before


def test_cancel_within_300_ms(engine: Engine, tiny_config: Path, tmp_path: Path) -> None:
    long = config_of(tmp_path / "long", tiny_config, max_position_embeddings=100_000)
    ticket = engine.submit(generate(random(long, **{"limits.max_new_tokens": 50_000}), "long"))
    while not any(isinstance(e, ev.Token) for e in engine.poll()):
        assert not ticket.done
        time.sleep(0.01)
    time.sleep(0.3)
    asked = time.monotonic()
    engine.cancel()
    with pytest.raises(errors.Cancelled):
        ticket.wait(10)
    assert time.monotonic() - asked < 0.3
    ended = [e for e in engine.poll() if isinstance(e, ev.RunEnded)]
    assert [(e.run, e.status) for e in ended] == [("long", "cancelled")]
    assert ended[0].new_tokens > 1
    assert engine.submit(generate(random(tiny_config))).wait(60)["new_tokens"] == 8


BIG = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6,
       "num_attention_heads": 16, "num_key_value_heads": 8}


def test_unloading_gives_the_memory_back(engine: Engine, tiny_config: Path, tmp_path: Path) -> None:
    """About 200 MB of weights, seen by the operating system."""
    big = config_of(tmp_path / "big", tiny_config, **BIG)
    process = psutil.Process(engine.pid)
    engine.submit(generate(random(tiny_config))).wait(60)  # what the first run ever loads, once
    engine.submit(Unload()).wait(60)
    empty = process.memory_info().rss
    parameters = engine.submit(Load(settings=random(big).to_dict())).wait(120)["parameters"]
    loaded = process.memory_info().rss
    assert parameters * 2 > 180e6
    assert loaded - empty > 0.9 * parameters * 2
    engine.submit(generate(random(big))).wait(60)
    result = engine.submit(Unload()).wait(60)
    after = process.memory_info().rss
    assert after - empty < 0.1 * parameters * 2, "more than a tenth of the model stayed"
    assert abs(result["after_bytes"]["ram"] - after) < 16 << 20
    assert result["freed_bytes"]["ram"] > 0.9 * parameters * 2
    assert engine.state == "unloaded"


@contextlib.contextmanager
def limited(engine: Engine, which: int, soft: int) -> Iterator[None]:
    """Set a resource limit of the running worker from outside, and take it back."""
    before = resource.prlimit(engine.pid, which)
    resource.prlimit(engine.pid, which, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(engine.pid, which, before)


def test_a_failed_allocation_is_a_sentence_and_the_engine_goes_on(
        engine: Engine, tiny_config: Path, tmp_path: Path) -> None:
    # Several times what earlier models may have left mapped, on top of a worker that is warm.
    many = {**BIG, "num_hidden_layers": 6 * BIG["num_hidden_layers"]}
    big = config_of(tmp_path / "big", tiny_config, **many)
    engine.submit(generate(random(tiny_config))).wait(60)
    used = psutil.Process(engine.pid).memory_info().vms
    with (limited(engine, resource.RLIMIT_AS, used + (60 << 20)),
          pytest.raises(errors.OutOfMemory) as caught):
        engine.submit(generate(random(big))).wait(60)
    assert "\n" not in str(caught.value)
    assert engine.submit(generate(random(tiny_config))).wait(60)["new_tokens"] == 8


def test_what_cannot_fit_is_refused_before_it_is_tried(
        engine: Engine, tiny_config: Path, tmp_path: Path) -> None:
    long = config_of(tmp_path / "long", tiny_config, max_position_embeddings=10**9)
    settings = random(long, **{"limits.max_new_tokens": 1_000_000, "limits.batch": 256})
    with pytest.raises(errors.OutOfMemory, match="KV cache needs"):
        engine.submit(Generate(run_id="r", settings=settings.to_dict(), prompts=["a"] * 256)).wait(60)
    assert engine.submit(generate(random(tiny_config))).wait(60)["new_tokens"] == 8


def test_a_bad_checkpoint_is_a_sentence(engine: Engine, tiny_config: Path, tmp_path: Path) -> None:
    folder = config_of(tmp_path / "bad", tiny_config).parent
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(zoo.path(zoo.DEFAULT) / name, folder)
    engine.poll()
    for content in (b"", b"\xff" * 100, b"\x10" + b"\x00" * 7 + b'{"a": 1}        '):
        (folder / "model.safetensors").write_bytes(content)
        settings = random(folder, **{"model.weights": "checkpoint"})
        with pytest.raises(errors.ModelError, match=r"model\.safetensors") as caught:
            engine.submit(generate(settings, "bad")).wait(60)
        assert "\n" not in str(caught.value)
        failed = [e for e in engine.poll() if isinstance(e, ev.RunEnded)]
        assert [(e.status, e.reason) for e in failed] == [("failed", str(caught.value))]
    assert engine.submit(generate(random(tiny_config))).wait(60)["new_tokens"] == 8


def test_bad_settings_are_a_sentence(engine: Engine, tiny_config: Path) -> None:
    data = random(tiny_config).to_dict()
    data["weights"] = {"name": "int5"}
    with pytest.raises(errors.SettingsError, match="int4"):
        engine.submit(Generate(run_id="x", settings=data, prompts=["a"])).wait(60)


TEXT = "def add(a, b):\n    return a + b\n" * 6


def test_quality_against_its_own_reference(engine: Engine, tiny_config: Path,
                                           tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "reference.npy"
    data = random(tiny_config).to_dict()
    engine.submit(Evaluate(run_id="", settings=data, texts=[TEXT], save=str(path))).wait(60)
    engine.poll()
    other = random(tiny_config, weights="int4").to_dict()
    engine.submit(Evaluate(run_id="q", settings=other, texts=[TEXT],
                           reference=str(path))).wait(60)
    final = {e.metric: e.value for e in engine.poll() if isinstance(e, ev.Quality) and e.done}
    assert final["perplexity"] > 100
    assert final["kl_mean"] > 0
    assert 0 < final["top1"] < 1


def test_a_disk_that_fills_while_saving_is_a_sentence(engine: Engine, tiny_config: Path,
                                                      tmp_path: Path) -> None:
    data = random(tiny_config).to_dict()
    path = tmp_path / "reference.npy"
    with limited(engine, resource.RLIMIT_FSIZE, 64 << 10), pytest.raises(errors.StoreError) as caught:
        engine.submit(Evaluate(run_id="", settings=data, texts=[TEXT], save=str(path))).wait(60)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert engine.submit(generate(random(tiny_config))).wait(60)["new_tokens"] == 8


def test_no_request_left_this_machine(engine: Engine) -> None:
    """All of the above loaded local models only; the hub was reachable and nobody asked it."""
    assert Hub.asked == []


def test_killed_mid_run(engine: Engine, tiny_config: Path, tmp_path: Path) -> None:
    """Last in this file: it ends the shared engine."""
    long = config_of(tmp_path / "long", tiny_config, max_position_embeddings=100_000)
    ticket = engine.submit(generate(random(long, **{"limits.max_new_tokens": 50_000}), "killed"))
    while not any(isinstance(e, ev.Token) for e in engine.poll()):
        time.sleep(0.01)
    os.kill(engine.pid, signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(errors.EngineDied, match="next run starts a new engine"):
        ticket.wait(5)
    assert time.monotonic() - killed < 1.0
