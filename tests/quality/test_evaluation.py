"""Perplexity, KL and agreement of a real model, against torch's own numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench.errors import Cancelled, SettingsError, StoreError
from workbench.events import Progress, Quality
from workbench.quality import evaluate

TEXTS = ["def add(a, b):\n    return a + b\n" * 9, "It was a dark and stormy night. " * 12, "x"]
_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 270, "max_position_embeddings": 160,
    "tie_word_embeddings": False, "initializer_range": 0.3, "dtype": "float32",
    "bos_token_id": 256, "eos_token_id": 257,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from workbench.runtime import load
    from workbench.settings import Settings

    path = tmp_path_factory.mktemp("quality") / "config.json"
    path.write_text(json.dumps(_CONFIG))
    return load(Settings().with_({
        "model.source": str(path), "model.weights": "random", "weights": "fp32",
        "compute.threads": 1}), lambda event: None)


def run(model: Any, texts: list[str] = TEXTS, **options: Any) -> tuple[Any, list[Any]]:
    events: list[Any] = []
    settings = model.settings.with_({"kv": options.pop("kv", "full")})
    summary = evaluate(model, texts, events.append, options.pop("cancelled", lambda: False),
                       settings=settings, **options)
    return summary, events


def test_perplexity_is_torchs_cross_entropy(model: Any) -> None:
    """Windows of at most the model's 160 positions, each scored without its first token."""
    losses = []
    for text in TEXTS:
        ids = model.encode(text)
        for start in range(0, len(ids), 160):
            window = torch.tensor([ids[start:start + 160]])
            if window.shape[1] > 1:
                with torch.inference_mode():
                    logits = model.loaded.model(window, use_cache=False).logits[0, :-1]
                losses.append(torch.nn.functional.cross_entropy(
                    logits, window[0, 1:], reduction="none"))
    want = torch.cat(losses)
    summary, _ = run(model)
    assert summary.tokens == len(want)
    assert summary.perplexity == pytest.approx(math.exp(float(want.mean())), rel=1e-4)


def test_against_itself_nothing_is_lost(model: Any, tmp_path: Path) -> None:
    run(model, save=tmp_path / "ref.npy")
    summary, _ = run(model, reference=tmp_path / "ref.npy")
    assert summary.kl_mean == pytest.approx(0.0, abs=1e-9)
    assert summary.top1 == 1.0


def test_int8_cache_shows_its_error(model: Any, tmp_path: Path) -> None:
    run(model, save=tmp_path / "ref.npy")
    summary, events = run(model, reference=tmp_path / "ref.npy", kv="int8")
    assert summary.kl_mean > 1e-7
    assert summary.kl_median <= summary.kl_p99
    assert 0.5 < summary.top1 <= 1.0
    final = {e.metric: e for e in events if isinstance(e, Quality) and e.done}
    assert set(final) == {"perplexity", "kl_mean", "kl_median", "kl_p99", "top1"}
    assert all(e.se is not None and e.tokens == summary.tokens for e in final.values())
    assert "fp32" in final["kl_mean"].against


def test_kl_is_the_formula(model: Any, tmp_path: Path) -> None:
    """A reference made up on the spot: uniform over the vocabulary."""
    run(model, save=tmp_path / "ref.npy")
    own = np.load(tmp_path / "ref.npy")
    vocab = own.shape[1]
    uniform = np.full(own.shape, -math.log(vocab), dtype=np.float32)
    np.save(tmp_path / "uniform.npy", uniform)
    (tmp_path / "uniform.json").write_text((tmp_path / "ref.json").read_text())
    want = (uniform[0, 0] - own).mean(1).mean()
    summary, _ = run(model, reference=tmp_path / "uniform.npy")
    assert summary.kl_mean == pytest.approx(float(want), rel=1e-4)


def test_partial_figures_stream(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.quality import evaluation

    monkeypatch.setattr(evaluation, "_PARTIAL_EVERY_S", 0.0)
    summary, events = run(model)
    partial = [e for e in events if isinstance(e, Quality) and not e.done]
    assert partial
    assert [e.tokens for e in partial] == sorted(e.tokens for e in partial)
    assert partial[-1].tokens == summary.tokens
    progress = [e for e in events if isinstance(e, Progress)]
    assert progress[-1].done == progress[-1].total == summary.tokens


def test_cancel_leaves_no_reference(model: Any, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run(model, save=tmp_path / "ref.npy", cancelled=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_another_text_is_not_compared(model: Any, tmp_path: Path) -> None:
    run(model, save=tmp_path / "ref.npy")
    with pytest.raises(StoreError, match="other texts"):
        run(model, ["something else entirely"], reference=tmp_path / "ref.npy")
    with pytest.raises(StoreError, match="cannot be read"):
        run(model, reference=tmp_path / "absent.npy")


def test_a_damaged_reference_is_one_sentence(model: Any, tmp_path: Path) -> None:
    (tmp_path / "ref.npy").write_bytes(b"no array")
    with pytest.raises(StoreError, match="delete it and evaluate the reference again"):
        run(model, reference=tmp_path / "ref.npy")


def test_a_full_disk_is_told_before_the_work(model: Any, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 1))
    with pytest.raises(StoreError, match="free some space"):
        run(model, save=tmp_path / "ref.npy")
    assert not (tmp_path / "ref.npy").exists()


def test_texts_without_tokens_are_refused(model: Any) -> None:
    with pytest.raises(SettingsError, match="fewer than two tokens"):
        run(model, ["x"])


def test_big_references_are_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.quality import reference

    monkeypatch.setattr(reference, "_FLOAT32_LIMIT", 100)
    writer = reference.Writer(tmp_path / "r.npy", 4, 30, {"tokens": "k"})
    writer.add(np.full((4, 30), -1.5))
    writer.close(True)
    assert np.load(tmp_path / "r.npy").dtype == np.float16
    assert reference.Reader(tmp_path / "r.npy", 4, 30, "k").next(4).dtype == np.float32


def test_a_stopped_evaluation_goes_on_and_ends_with_the_same_figures(model: Any, tmp_path: Path) -> None:
    texts = [f"{t} {i}" for i in range(6) for t in TEXTS[:2]]
    run(model, texts, save=tmp_path / "ref.npy", window=64)
    options = {"reference": tmp_path / "ref.npy", "window": 64, "kv": "int8", "shuffle": 3}
    whole, _ = run(model, texts, **options)
    journal = tmp_path / "deep" / "journal"
    asked = 0

    def enough() -> bool:
        nonlocal asked
        asked += 1
        return asked > 12

    with pytest.raises(Cancelled):
        run(model, texts, journal=journal, cancelled=enough, **options)
    kept = journal.read_text().splitlines()
    assert len(kept) > 2
    journal.write_text("\n".join([*kept, '[7, [0.1, 0.']))  # the disk filled up in the middle of a line
    forwards = 0
    before = model.forward.__class__.__call__

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        nonlocal forwards
        forwards += 1
        return before(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.forward.__class__, "__call__", counted)
        again, _ = run(model, texts, journal=journal, **options)
        resumed, forwards = forwards, 0
        run(model, texts, **options)
    assert again == whole
    assert 0 < resumed <= forwards - (len(kept) - 1)
    assert not journal.exists()


def test_the_order_of_windows_changes_no_figure_but_the_error(model: Any, tmp_path: Path) -> None:
    texts = [f"{t} {i}" for i in range(4) for t in TEXTS[:2]]
    run(model, texts, save=tmp_path / "ref.npy", window=64)
    plain, _ = run(model, texts, reference=tmp_path / "ref.npy", window=64, kv="int8")
    mixed, _ = run(model, texts, reference=tmp_path / "ref.npy", window=64, kv="int8", shuffle=1)
    assert mixed.perplexity == pytest.approx(plain.perplexity, rel=1e-12)
    assert mixed.kl_mean == pytest.approx(plain.kl_mean, rel=1e-9)
    assert (mixed.kl_p99, mixed.top1) == (plain.kl_p99, plain.top1)
    with pytest.raises(SettingsError, match="leave shuffle out"):
        run(model, texts, save=tmp_path / "other.npy", shuffle=1)


def test_a_journal_of_another_evaluation_is_not_believed(model: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text('{"tokens": "other"}\n[0, [99.0], [], []]\n')
    found, _ = run(model, journal=journal)
    plain, _ = run(model)
    assert found == plain
