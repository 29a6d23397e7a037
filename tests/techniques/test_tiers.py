"""Tiers: the same tokens wherever the layers lie, bounded slots, real reads, honest failures."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.errors import Cancelled, EngineError, OutOfMemory, SettingsError
from workbench.events import Transfer
from workbench.machine import Machine, this_machine
from workbench.runtime import load, parking
from workbench.settings import Settings
from workbench.shape import from_config
from workbench.techniques.tiers.stream import Stream

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 300, "max_position_embeddings": 256,
    "tie_word_embeddings": False, "initializer_range": 0.25, "bos_token_id": 256,
}
WAYS: list[dict[str, Any]] = [
    {}, {"window": 1, "prefetch": 0}, {"window": 3, "prefetch": 2}, {"window": 64, "prefetch": 7},
    {"resident": 2}, {"resident": 5}, {"overlap": False}, {"window": 3, "prefetch": 2, "overlap": False},
    {"page_cache": True},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("tiers") / "config.json"
    path.write_text(json.dumps(CONFIG))
    return Settings().with_({"model.source": str(path), "model.weights": "random",
                             "limits.max_new_tokens": 12, "compute.threads": 1,
                             "compute.device": "cpu", "limits.stop_at_eos": False})


def generate(settings: Settings) -> tuple[list[list[int]], list[Transfer], Any]:
    """(tokens, transfers, the model, still open)."""
    events: list[Any] = []
    model = load(settings, events.append)
    output = model.generate(["over the hills"], settings, events.append, lambda: False)
    return output.tokens, [e for e in events if isinstance(e, Transfer)], model


@pytest.fixture(scope="module", autouse=True)
def module_by_module() -> Iterator[None]:
    """Streamed layers run module by module, and the native executor rounds differently; what streaming
    itself must not change is compared with the same executor."""
    from workbench.runtime import native

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "executor_for", lambda forward: (None, "off in this test"))
        yield


@pytest.fixture(scope="module")
def resident(base: Settings) -> dict[str, list[list[int]]]:
    """The all-resident tokens of each weights method."""
    found = {}
    for weights in ("fp32", "bf16", "int8", "int4"):
        found[weights], transfers, model = generate(base.with_(weights=weights))
        assert not transfers
        model.close()
    assert len(set(found["fp32"][0])) > 5, "a constant text would prove nothing"
    return found


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("weights", ["bf16", "int4"])
def test_tokens_are_those_of_the_resident_run(base, resident, weights: str, way: dict) -> None:
    settings = base.with_({"weights": weights, "tiers": Stream(**way)})
    tokens, _, model = generate(settings)
    try:
        assert tokens == resident[weights]
        model.streamer.check_integrity()
        again = model.generate(["over the hills"], settings, lambda e: None, lambda: False)
        assert again.tokens == resident[weights]
    finally:
        model.close()


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_every_packing_streams(base, resident, weights: str) -> None:
    tokens, _, model = generate(base.with_({"weights": weights, "tiers": "stream"}))
    model.close()
    assert tokens == resident[weights]


def test_transfers_are_what_the_placement_needs(base: Settings) -> None:
    settings = base.with_({"tiers": Stream(resident=2)})
    tokens, transfers, model = generate(settings)
    forwards = len(tokens[0])  # one prefill and one per further token
    store = model.streamer.store
    streamed = sorted(store.segments)
    tiers = [e for e in model.effective().values() if e.path == "tiers.source"]
    placement = model.placement()
    model.close()
    # One layer may have been fetched ahead before the run began, and is then not the run's.
    assert forwards * 3 - 2 <= len(transfers) <= forwards * 3
    assert {t.layer for t in transfers} == set(streamed) == {0, 2, 4}
    assert [placement[i] for i in streamed] == ["disk"] * 3
    assert placement.count("ram") == 2
    for t in transfers:
        assert (t.src, t.dst, t.what) == ("disk", "ram", "weights")
        assert t.bytes % parking.PAGE == 0
        assert 0 <= t.start_s <= t.end_s
        assert t.waited_s >= 0
    assert tiers[0].effective.startswith("disk, 3 layers")


def test_packed_layers_travel_as_packed_bytes(base: Settings) -> None:
    moved = {}
    for weights in ("bf16", "int4"):
        _, transfers, model = generate(base.with_({"weights": weights, "tiers": "stream"}))
        moved[weights] = sum(s.nbytes for s in model.streamer.store.segments.values())
        assert sum(t.bytes for t in transfers) >= 10 * moved[weights]
        model.close()
    assert moved["int4"] < 0.45 * moved["bf16"]


def test_memory_by_tier_is_what_is_held(base: Settings) -> None:
    whole = load(base, lambda e: None)
    everything = whole.loaded.weights_bytes
    whole.close()
    model = load(base.with_({"tiers": Stream(window=2)}), lambda e: None)
    held, store = model.streamer.bytes_by_tier(), model.streamer.store
    slots = sum(s.buffer.numel() for s in model.streamer.slots)
    parked = sum(s.nbytes for s in store.segments.values())
    assert slots == 2 * store.slot_bytes
    assert held["ram"] == everything - parked + slots
    assert held["disk"] == store.nbytes == os.fstat(store.fd).st_size
    model.close()


def test_never_more_layers_than_slots(base: Settings) -> None:
    """While it runs, no layer outside the window has memory, and none is overwritten in use."""
    model = load(base.with_({"tiers": Stream(window=2, prefetch=1)}), lambda e: None)
    from workbench.runtime.guard import layers_of

    layers, most = layers_of(model.loaded.model), 0

    def look(module: Any, *_: Any) -> None:
        nonlocal most
        with_memory = [m for m in layers if any(not p.is_meta for p in m.parameters())]
        most = max(most, len(with_memory))
        assert module in with_memory
        model.streamer.check_integrity()

    for layer in layers:
        layer.register_forward_pre_hook(look)
    model.generate(["over the hills"], base, lambda e: None, lambda: False)
    model.close()
    assert most == 1  # only the layer that computes is bound; the other slot is being filled


def test_a_forward_cut_short_is_followed_by_a_right_one(base, resident) -> None:
    settings = base.with_(tiers="stream")
    model = load(settings, lambda e: None)
    for after in (3, 7, 1, 12):
        calls = iter(range(10_000))
        with pytest.raises(Cancelled):
            model.generate(["over the hills"], settings, lambda e: None,
                           lambda calls=calls, after=after: next(calls) >= after)
    output = model.generate(["over the hills"], settings, lambda e: None, lambda: False)
    model.close()
    assert output.tokens == resident["bf16"]


def test_a_cancel_does_not_wait_for_a_slow_disk(base: Settings, monkeypatch) -> None:
    settings = base.with_(tiers="stream")
    model = load(settings, lambda e: None)
    release = threading.Event()
    model.streamer._mover.load = lambda *a: release.wait(20)
    flag = threading.Event()
    threading.Timer(0.2, flag.set).start()
    begun = time.perf_counter()
    with pytest.raises(Cancelled):
        model.generate(["x" * 40], settings, lambda e: None, flag.is_set)
    assert time.perf_counter() - begun < 2
    release.set()
    model.close()


def test_a_failing_read_is_one_sentence_and_can_be_tried_again(base, resident, monkeypatch) -> None:
    settings = base.with_(tiers="stream")
    model = load(settings, lambda e: None)
    real = os.preadv

    def broken(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    def run() -> list[list[int]]:
        return model.generate(["over the hills"], settings, lambda e: None, lambda: False).tokens

    monkeypatch.setattr(parking.os, "preadv", broken)
    with pytest.raises(EngineError, match=r"reading layer \d+ from disk failed: Input/output error"):
        run()
    monkeypatch.setattr(parking.os, "preadv", real)
    tokens = run()
    model.close()
    assert tokens == resident["bf16"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(base, monkeypatch, home: Path) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parking.os, "pwrite", full)
    with pytest.raises(OutOfMemory, match=r"the disk tier is full.*WORKBENCH_HOME"):
        load(base.with_(tiers="stream"), lambda e: None)
    assert not list((home / "scratch").iterdir())


def test_stopping_frees_everything(base: Settings, home: Path) -> None:
    before = threading.active_count()
    model = load(base.with_(tiers="stream"), lambda e: None)
    streamer = model.streamer
    assert threading.active_count() == before + 1
    streamer.stop()
    streamer.stop()
    assert threading.active_count() == before
    assert not streamer.slots
    with pytest.raises(RuntimeError):  # placeholders, never somebody else's numbers
        model.loaded.model(torch.tensor([[1, 2]]))
    model.close()
    assert not list((home / "scratch").iterdir())  # the file never had a name


def test_o_direct_where_the_file_system_allows_it(base: Settings) -> None:
    model = load(base.with_(tiers="stream"), lambda e: None)
    assert model.streamer.store.how in (
        "O_DIRECT: past the page cache",
        "pages dropped after each read (this file system refuses O_DIRECT)",
        "page cache as the OS likes")
    model.close()
    cached = load(base.with_({"tiers": Stream(page_cache=True)}), lambda e: None)
    assert "RAM" in cached.streamer.store.how
    cached.close()


def test_all_resident_needs_no_thread_and_no_slots(base: Settings) -> None:
    before = threading.active_count()
    model = load(base.with_({"tiers": Stream(resident=5)}), lambda e: None)
    assert not model.streamer.slots
    assert threading.active_count() == before
    assert model.effective()["tiers.source"].effective == "not used: all layers stay"
    model.close()


def test_a_window_wider_than_the_model_reads_each_layer_once(base: Settings) -> None:
    _, transfers, model = generate(base.with_({"tiers": Stream(window=16, prefetch=2)}))
    assert len(transfers) <= 5
    row = model.effective()["tiers.window"]
    model.close()
    assert (row.requested, row.effective, row.honoured) == ("16", "5", False)
    assert "read once" in row.reason


# -- the choice, without a model -----------------------------------------------------------------


def test_refused_combinations_say_what_to_do() -> None:
    with pytest.raises(SettingsError, match=r"prefetch=4 needs tiers.window of at least 5"):
        Settings(tiers=Stream(prefetch=4))
    with pytest.raises(SettingsError, match=r"source=ram needs compute.device=cuda"):
        Settings().with_({"tiers": Stream(source="ram"), "compute.device": "cpu"})
    shape, cpu_only = from_config(CONFIG), Machine("cpu", 1, 1)
    assert "more than the model's 5 layers" in (Stream(resident=6).applies(shape, cpu_only) or "")
    assert "needs a GPU" in (Stream(source="ram").applies(shape, cpu_only) or "")
    assert Stream(resident=5).applies(shape, cpu_only) is None


@pytest.mark.parametrize("layers", [1, 2, 7, 32])
def test_resident_layers_are_spread_and_exactly_as_many(layers: int) -> None:
    for keep in range(layers + 1):
        stays = Stream(resident=keep).resident_layers(layers)
        assert len(stays) == keep
        assert stays <= set(range(layers))
        gone = [i for i in range(layers) if i not in stays]
        runs = [b - a for a, b in itertools.pairwise(gone)]
        assert all(r <= 2 for r in runs) or keep > layers // 2


def test_placement_on_a_gpu_names_three_tiers() -> None:
    machine = this_machine()
    assert Stream(resident=1).placement(3, machine, "cuda:0") == ["ram", "gpu", "ram"]
    assert Stream(source="disk").placement(2, machine, "cuda:0") == ["disk", "disk"]
    assert Stream().placement(2, machine, "cpu") == ["disk", "disk"]
