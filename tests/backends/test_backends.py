"""Peers driven for real: transformers here always, the others where they are installed."""

from __future__ import annotations

import importlib.util
import time
from itertools import pairwise

import pytest

import workbench
from workbench.errors import MissingDependency, SettingsError, WorkbenchError
from workbench.settings import Settings
from workbench.techniques.base import family

PROMPT = "def area(width, height):\n"
SHORT = {"limits.max_new_tokens": 12, "telemetry.preset": "off", "telemetry.power": False}


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


PEERS = [
    pytest.param(name, marks=pytest.mark.skipif(
        not has(cls.module) or name == "vllm",
        reason="vLLM needs a CUDA GPU" if name == "vllm" else f"{cls.module} is not installed"))
    for name, cls in family("backend").items() if name != "native"]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory):
    import os

    before = os.environ.get("WORKBENCH_HOME")
    os.environ["WORKBENCH_HOME"] = str(tmp_path_factory.mktemp("home"))
    with workbench.open(inline=True) as opened:
        yield opened
    os.environ["WORKBENCH_HOME"] = before or ""


def of(run, kind: str) -> list:
    return [e for e in run.events if type(e).__name__ == kind]


@pytest.fixture(scope="module")
def native(session):
    return session.run(PROMPT, wait=True, **SHORT)


@pytest.mark.parametrize("backend", PEERS)
def test_the_events_are_the_native_ones(session, native, backend):
    run = session.run(PROMPT, wait=True, backend=backend, **SHORT)
    assert run.status == "done"
    tokens, phases = of(run, "Token"), of(run, "Phase")
    assert [t.index for t in tokens] == list(range(12))
    assert [p.phase for p in phases] == ["prefill", *["decode"] * 11]
    assert phases[0].rows == of(run, "RunStarted")[0].prompt_tokens
    assert all(a.end_s <= b.start_s for a, b in pairwise(phases))
    assert all(p.end_s > p.start_s for p in phases)
    assert of(run, "Memory")[0].total_bytes > 1e7
    assert of(run, "RunEnded")[-1].new_tokens == 12
    assert run.metrics["tok_per_s"].value > 0
    # 16-bit weights of the same model: the greedy text begins alike, rounding may turn it later.
    assert [t.id for t in tokens][:4] == [t.id for t in of(native, "Token")][:4]


@pytest.mark.parametrize("backend", PEERS)
def test_every_setting_says_what_became_of_it(session, backend):
    wanted = {"kv": "int8", "decoding": "prompt_lookup", **SHORT}
    run = session.run(PROMPT, wait=True, backend=backend, **wanted)
    said = run.effective
    assert set(run.requested.flat()) <= set(said)
    assert not said["decoding"]["honoured"]
    assert said["decoding"]["effective"] == "plain"
    assert "backend=native" in said["decoding"]["reason"]
    assert any(c.isdigit() for c in said["backend"]["effective"])
    for record in said.values():
        assert record["honoured"] or record["reason"], record
    if backend == "transformers":
        assert not said["kv"]["honoured"]


@pytest.mark.parametrize("backend", PEERS)
def test_a_cancel_is_heard(session, backend):
    session.run(PROMPT, wait=True, backend=backend, **SHORT)  # loaded
    run = session.run(PROMPT, backend=backend, **{**SHORT, "limits.max_new_tokens": 900,
                                                 "limits.stop_at_eos": False})
    while not of(run, "Token"):
        time.sleep(0.01)
    asked = time.monotonic()
    session.cancel(run)
    run.wait(30)
    assert run.status == "cancelled"
    assert time.monotonic() - asked < 3
    assert 0 < len(of(run, "Token")) < 900


def test_plain_transformers_says_that_it_cannot_pack(session):
    if has("torchao"):
        pytest.skip("torchao is installed, so int8 can be had")
    run = session.run(PROMPT, wait=True, backend="transformers", weights="int8", **SHORT)
    assert not run.effective["weights"]["honoured"]
    assert "torchao" in run.effective["weights"]["reason"]


def test_quality_of_transformers_is_the_untouched_model(session):
    """The same weights in the same dtype: hardly any divergence from the native reference."""
    run = session.run(PROMPT, wait=True, backend="transformers", quality="quick", **SHORT)
    assert run.metrics["top1"].value > 0.97
    assert run.metrics["kl_mean"].value < 0.01


@pytest.mark.skipif(not has("llama_cpp"), reason="llama_cpp is not installed")
def test_blocks_of_llama_are_named_and_measured(session):
    run = session.run(PROMPT, wait=True, backend="llama_cpp", weights="int8", quality="quick", **SHORT)
    assert "W8A8" in run.effective["weights"]["effective"]
    assert "activations" in run.effective["weights"]["reason"]
    assert 0 < run.metrics["kl_mean"].value < 0.05


@pytest.mark.skipif(not has("openvino_genai"), reason="openvino_genai is not installed")
def test_no_logits_no_quality(session):
    with pytest.raises(WorkbenchError, match="does not give logits"):
        session.run(PROMPT, wait=True, backend="openvino", quality="quick", **SHORT)


@pytest.mark.parametrize("name", [n for n in family("backend") if n != "native"])
def test_a_missing_package_is_one_sentence_that_names_the_extra(name, monkeypatch):
    from workbench import backends

    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(MissingDependency) as caught:
        backends.open_model(Settings().with_({"backend": name}), lambda e: None)
    extra = family("backend")[name].extra
    assert (f"inference-workbench[{extra}]" if extra else "inference-workbench") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_extras_that_are_named_exist(repository):
    import tomllib

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    for cls in family("backend").values():
        assert not cls.extra or cls.extra in project["optional-dependencies"]


def test_a_dash_means_an_underscore():
    assert Settings().with_({"backend": "llama-cpp"}).backend.name() == "llama_cpp"


def test_canvas_models_are_refused():
    from workbench import backends

    settings = Settings().with_({"model.source": "wb-dlm", "backend": "transformers"})
    with pytest.raises(SettingsError, match="masked-diffusion"):
        backends.open_model(settings, lambda e: None)


def test_random_weights_are_the_native_ones(tiny_config):
    """Peers get the numbers that the native runtime draws, whatever reads them."""
    import torch

    from workbench import backends
    from workbench.runtime.loading import load_model

    settings = Settings().with_({"model.source": str(tiny_config), "model.weights": "random"})
    peer = backends.open_model(settings.with_({"backend": "transformers"}), lambda e: None)
    ours = load_model(settings, lambda e: None)
    ids = list(range(30, 60))
    with torch.inference_mode():
        wanted = ours.model(torch.tensor([ids])).logits[0].float()
    torch.testing.assert_close(peer.peer.extend(ids, 0), wanted, atol=0.02, rtol=0.02)
    peer.close()
