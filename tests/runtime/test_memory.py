"""Running out of memory, giving it back, and saying what is held."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from workbench.errors import OutOfMemory, SettingsError
from workbench.runtime.effective import runs_of
from workbench.runtime.oom import explained, is_out_of_memory


def test_a_real_failed_allocation_becomes_one_sentence() -> None:
    with pytest.raises(OutOfMemory) as caught, explained("the run", "choose kv=int8"):
        torch.empty(1 << 50)
    text = str(caught.value)
    assert text.startswith("the run ran out of memory (it asked for ")
    assert text.endswith("choose kv=int8")
    assert "\n" not in text


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="size"), explained("the run", ""):
        torch.zeros(2) @ torch.zeros(3)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_cuda_sentence_names_the_size() -> None:
    with pytest.raises(OutOfMemory, match=r"asked for 2\.00 GiB"), explained("loading", "x"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")


def test_out_of_memory_in_a_run_frees_the_cache(model: Any, settings: Any,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        return torch.empty(1 << 50)

    monkeypatch.setattr(type(model.forward), "__call__", fails)
    model._warm.add(id(model.forward))
    with pytest.raises(OutOfMemory, match=r"the run ran out of memory.*limits.max_new_tokens"):
        model.generate(["abc"], settings, lambda e: None, lambda: False)
    assert model._cache is None


def test_close_frees_every_weight(settings: Any) -> None:
    from workbench.runtime import load

    model = load(settings, lambda event: None)
    watched = [weakref.ref(p) for p in model.loaded.model.parameters()]
    model.close()
    assert not [w for w in watched if w() is not None]


def test_parts_add_up_to_what_was_allocated(model: Any, settings: Any, small_draft: Any) -> None:
    from workbench.events import Memory

    events: list[Any] = []
    chosen = settings.with_({"decoding": "draft_model", "decoding.draft": str(small_draft)})
    model.generate(["abc"], chosen, events.append, lambda: False)
    last = [e for e in events if isinstance(e, Memory)][-1]
    weights = {p.data_ptr(): p.numel() * p.element_size()
               for p in (*model.loaded.model.parameters(), *model.loaded.model.buffers())}
    assert last.tier == "ram"
    assert last.weights_bytes == sum(weights.values())
    assert last.kv_bytes == settings.kv.token_bytes(model.shape, "float32") * 64
    assert last.draft_bytes > 0
    assert last.total_bytes > last.weights_bytes + last.kv_bytes


def test_a_bad_draft_is_told_before_the_target_is_read(settings: Any, write_config: Any,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.runtime import model as module

    monkeypatch.setattr(module, "load_model", lambda *a: pytest.fail("something was loaded"))
    chosen = settings.with_({"decoding": "draft_model",
                             "decoding.draft": str(write_config(vocab_size=7))})
    with pytest.raises(SettingsError, match="vocabulary has 7 tokens"):
        module.load(chosen, lambda event: None)


def test_placement_in_words() -> None:
    assert runs_of(["gpu", "gpu", "ram"]) == "layers 0-1: gpu; layer 2: ram"
    assert runs_of([]) == ""
