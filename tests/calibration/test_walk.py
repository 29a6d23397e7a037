"""The service: statistics of the real inputs, stopping and going on, refusals; the model untouched."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from workbench import zoo
from workbench.calibration import text, walk
from workbench.calibration.layers import Layer, Opened
from workbench.calibration.prepared import digest, key_of, prepare
from workbench.calibration.quantizer import Quantizer
from workbench.calibration.recipe import Recipe
from workbench.calibration.states import States, Writing
from workbench.calibration.statistics import Statistics
from workbench.calibration.text import Samples
from workbench.calibration.walk import Pass
from workbench.errors import Cancelled, ModelError, SettingsError, StoreError
from workbench.events import Progress
from workbench.runtime.sources import resolve
from workbench.runtime.tokens import tokenizer_for
from workbench.settings import Settings

TINY = Recipe(bits=4, group=32, samples=6, length=64)


def settings(source: str = "wb-1m", **changes: str) -> Settings:
    return Settings().with_({"model.source": source, **changes})


def samples(recipe: Recipe = TINY, name: str = "wb-1m") -> Samples:
    source = resolve(settings(name).model)
    vocab = source.config["vocab_size"]
    tokenizer, _ = tokenizer_for(source.folder, vocab, False, False)
    return text.draw(tokenizer, recipe.text, recipe.samples, recipe.length, recipe.seed, vocab)


class Watcher:
    """Keeps every pass's statistics; changes nothing."""

    def __init__(self, whole: bool = True) -> None:
        self.whole = whole
        self.groups: list[list[list[str]]] = []
        self.found: dict[tuple[int, str], Statistics] = {}

    def passes(self, groups: list[list[str]]) -> list[Pass]:
        self.groups.append(groups)
        if self.whole:
            return [Pass("all", tuple(n for g in groups for n in g))]
        return [Pass(g[0], tuple(g)) for g in groups]

    def observed(self, layer: Layer, done: Pass, statistics: dict[str, Statistics]) -> None:
        for name in done.names:
            self.found[layer.index, name] = statistics[name]

    def keep(self, layer: Layer) -> dict[str, torch.Tensor]:
        return {"seen": torch.zeros(1)}


@pytest.mark.parametrize("whole", [True, False])
def test_statistics_are_those_of_the_whole_model(tmp_path: Path, whole: bool) -> None:
    """Against transformers' own model with hooks on every linear layer, the same tokens."""
    from transformers import AutoModelForCausalLM

    drawn, watcher = samples(), Watcher(whole)
    walk.walk(settings(), drawn, watcher, tmp_path, {}, lambda e: None)
    model = AutoModelForCausalLM.from_pretrained(zoo.path("wb-1m"), dtype=torch.float32).eval()
    seen: dict[tuple[int, str], list[torch.Tensor]] = {}
    for index, layer in enumerate(model.model.layers):
        for name, module in layer.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(
                    lambda m, a, at=(index, name): seen.setdefault(at, []).append(a[0]))
    with torch.no_grad():
        model(drawn.ids)
    assert set(seen) == set(watcher.found)
    for at, parts in seen.items():
        x = torch.cat([p.reshape(-1, p.shape[-1]) for p in parts]).double()
        found = watcher.found[at]
        assert found.tokens == len(x) == drawn.tokens
        assert found.gram is not None
        torch.testing.assert_close(found.gram.double(), x.T @ x, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.absolute, x.abs().sum(0), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.largest.double(), x.abs().amax(0), rtol=1e-3, atol=1e-3)


def test_matrices_that_share_an_input_are_found(tmp_path: Path) -> None:
    watcher = Watcher()
    walk.walk(settings(), samples(), watcher, tmp_path, {}, lambda e: None)
    assert watcher.groups[0] == [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]]
    assert watcher.found[0, "self_attn.q_proj"] is watcher.found[0, "self_attn.v_proj"]


def test_gpt2_is_calibrated_too(tmp_path: Path) -> None:
    """Transposed matrices, learned positions, biases; random weights."""
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_layer": 2,
              "n_head": 2, "n_positions": 128, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    chosen = settings(str(tmp_path / "config.json"), **{"model.weights": "random"})
    watcher = Watcher()
    ids = torch.randint(0, 300, (4, 64), generator=torch.Generator().manual_seed(0))
    walk.walk(chosen, Samples(ids, "random", 0, ()), watcher, tmp_path / "out", {}, lambda e: None)
    assert watcher.groups[1] == [["attn.c_attn"], ["attn.c_proj"], ["mlp.c_fc"], ["mlp.c_proj"]]
    assert watcher.found[1, "mlp.c_proj"].gram.shape == (256, 256)  # type: ignore[union-attr]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("layer-*")}


def test_stopped_anywhere_it_goes_on_and_ends_in_the_same_bytes(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "BATCH_TOKENS", 256)  # batches of 4 and 2 windows
    drawn, whole, asked = samples(), tmp_path / "whole", [0]

    def stop_after(limit: float) -> Callable[[], bool]:
        asked[0] = 0

        def stop() -> bool:
            asked[0] += 1
            return asked[0] > limit
        return stop

    walk.walk(settings(), drawn, Quantizer(TINY), whole, {}, lambda e: None, stop_after(float("inf")))
    total = asked[0]
    for share in (0.02, 0.35, 0.6, 0.99):
        part = tmp_path / f"part{share}"
        with pytest.raises(Cancelled, match="finished layers are kept"):
            walk.walk(settings(), drawn, Quantizer(TINY), part, {}, lambda e: None, stop_after(share * total))
        assert not (part / "done").exists()
        kept = set(contents(part))
        walk.walk(settings(), drawn, Quantizer(TINY), part, {}, lambda e: None, stop_after(float("inf")))
        assert kept < set(contents(part))
        assert contents(part) == contents(whole)
    assert not list(tmp_path.glob("*/states-*"))
    assert not list(tmp_path.glob("*/*.part"))


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from workbench.calibration.prepared import prepare
from workbench.calibration.recipe import Recipe
from workbench.settings import Settings
def emit(event):
    if event.done >= 1.2:
        os.kill(os.getpid(), signal.SIGKILL)
prepare(Settings().with_({"model.source": "wb-1m"}), Recipe(bits=4, group=32, samples=6, length=64), emit)
"""


def test_killed_in_the_middle_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "WORKBENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    (folder,) = (tmp_path / "home" / "cache" / "calibrated").iterdir()
    assert set(contents(folder)) == {"layer-0000.safetensors"}
    untouched = (folder / "layer-0000.safetensors").stat().st_mtime_ns
    seen: list[Progress] = []
    prepare(settings(), TINY, seen.append)  # type: ignore[arg-type]
    assert (folder / "layer-0000.safetensors").stat().st_mtime_ns == untouched
    assert all(e.done >= 1 for e in seen if e.detail.startswith("layer"))
    walk.walk(settings(), samples(), Quantizer(TINY), tmp_path / "whole", {}, lambda e: None)
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_second_time_it_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    first, second = [], []
    prepare(settings(), TINY, first.append)
    found = prepare(settings(), TINY, second.append)
    assert len(first) > 5
    assert not second
    q, pairs = found.codes("model.layers.0.mlp.down_proj")
    assert q.dtype == torch.uint8
    assert int(q.max()) <= 15
    assert pairs.shape == (q.shape[1] // 32, q.shape[0], 2)


def test_the_key_follows_what_the_codes_depend_on(tmp_path: Path) -> None:
    source = resolve(settings().model)
    base = digest(key_of(settings(), TINY, source))
    assert digest(key_of(settings(), TINY, source)) == base
    file = tmp_path / "t.txt"
    seen = {base}
    for changes in ({"bits": 3}, {"samples": 7}, {"text": str(file)}):
        recipe = dataclasses.replace(TINY, **changes)
        seen.add(digest(key_of(settings(), recipe, source)))
    file.write_text("another text")
    seen.add(digest(key_of(settings(), recipe, source)))
    copy = shutil.copytree(zoo.path("wb-1m"), tmp_path / "copy")
    other = settings(str(copy))
    seen.add(digest(key_of(other, TINY, resolve(other.model))))
    os.utime(copy / "model.safetensors", ns=(1, 1))
    seen.add(digest(key_of(other, TINY, resolve(other.model))))
    assert len(seen) == 7


# -- text ----------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_tokens_and_no_evaluation_text() -> None:
    first, again, other = samples(), samples(), samples(Recipe(samples=6, length=64, seed=1))
    assert first.digest() == again.digest() != other.digest()
    assert first.places == again.places
    held = {"calendar.py", "textwrap.py", "statistics.py"}
    many = samples(Recipe(samples=200, length=16))
    assert not held & {place.partition(":")[0] for place in many.places}
    assert len({place.partition(":")[0] for place in many.places}) > 50


def test_a_file_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, again and again.\n" * 60)
    drawn = samples(Recipe(samples=4, length=128, text=str(path)))
    assert drawn.ids.shape == (4, 128)
    assert all(place.startswith("mine.txt@") for place in drawn.places)


@pytest.mark.parametrize(("content", "message"), [
    (None, "cannot be read"), (b"", "is empty"), (b"short", "needs 128; give a longer text"),
    (b"\xff\xfe\x00", "is not UTF-8")])
def test_bad_text_is_one_sentence(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        samples(Recipe(samples=4, length=128, text=str(path)))


def test_too_little_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 256 tokens"):
        Recipe(samples=2, length=64)


# -- refusals ------------------------------------------------------------------------------------


def damaged(tmp_path: Path, tensor: str, value: float) -> Path:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(zoo.path("wb-1m"), tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors[tensor][0, 0] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    folder = damaged(tmp_path, "model.layers.1.mlp.up_proj.weight", float("nan"))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        prepare(settings(str(folder)), TINY, lambda e: None)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_group_that_does_not_divide_is_refused_before_anything_is_read(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="352 columns, which the group of 64 does not divide"):
        prepare(settings(), Recipe(bits=4, group=64), lambda e: None)
    assert not list(tmp_path.rglob("*"))


def test_experts_in_stacks_are_refused(tmp_path: Path) -> None:
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 32,
              "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 2, "num_local_experts": 2, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="stack of matrices"):
        Opened(settings(str(tmp_path / "config.json"), **{"model.weights": "random"}))


def test_another_unfinished_calibration_is_not_continued(tmp_path: Path) -> None:
    walk._claim(tmp_path, {"a": 1})
    with pytest.raises(StoreError, match="other settings"):
        walk._claim(tmp_path, {"a": 2})


def test_states_are_whole_or_absent(tmp_path: Path) -> None:
    states = States(tmp_path, (4, 8, 16), torch.float32)
    writing = Writing(states, 0)
    writing.add(torch.ones(2, 8, 16))
    assert not states.there(0)
    writing.add(2 * torch.ones(2, 8, 16))
    writing.done()
    assert states.there(0)
    assert states.read(0, 2, 8).unique().tolist() == [2.0]
    half = Writing(states, 1)
    half.add(torch.ones(1, 8, 16))
    half.close()
    assert not list(tmp_path.glob("*.part"))


