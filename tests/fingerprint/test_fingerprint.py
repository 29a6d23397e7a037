"""Configurations told apart by bits: what can be, what cannot be, and what changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from workbench.errors import SettingsError, StoreError
from workbench.fingerprint import border, features, golden
from workbench.fingerprint.classifier import Accuracy, Linear, held_out, wilson
from workbench.fingerprint.collect import Collected, Config, available, bits, collect
from workbench.fingerprint.study import study, twins

FP32, BF16 = Config("weights=fp32", {"weights": "fp32"}), Config("weights=bf16", {"weights": "bf16"})
INT4 = Config("weights=int4", {"weights": "int4"})
AGAIN = Config("bf16 again", {"weights": "bf16"})


@pytest.fixture(scope="module")
def found() -> Collected:
    """Real logits of the bundled draft model."""
    return collect([FP32, BF16, INT4, AGAIN], "wb-1m", count=30)


def test_the_same_configuration_twice_has_the_same_bits_and_is_one_class(found: Collected) -> None:
    assert ["weights=bf16", "bf16 again"] in twins(found.logits)
    assert found.unsteady == []
    assert not (bits(found.logits["weights=fp32"]) == bits(found.logits["weights=bf16"])).all()
    result = study(found)
    assert ["weights=bf16", "bf16 again"] in result.groups
    assert all("bf16 again" not in t.question for t in result.tasks)


def test_formats_are_told_apart_on_unseen_prompts_and_shuffled_labels_are_not(found: Collected) -> None:
    task = next(t for t in study(found).tasks if t.question == "Which number format?")
    assert task.by_group["weights=fp32"][0] > 0.8  # chance is a third
    assert task.informed.low > 0.8
    assert task.informed.better
    assert task.control.low <= task.control.chance <= task.control.high + 0.05
    assert task.blind.chance == pytest.approx(1 / 3)


def test_too_few_prompts_are_refused(found: Collected) -> None:
    few = Collected(found.prompts[:5], {n: v[:5] for n, v in found.logits.items()}, configs=found.configs)
    with pytest.raises(SettingsError, match="10 or more"):
        study(few)


def test_identical_configurations_leave_nothing_to_classify(found: Collected) -> None:
    same = Collected(found.prompts, {n: found.logits[n] for n in ("weights=bf16", "bf16 again")},
                     configs=found.configs)
    assert study(same).tasks == []


def test_features_see_empty_low_bits() -> None:
    import torch

    wide = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)
    narrow = torch.from_numpy(wide).bfloat16().float().numpy()
    trailing = slice(32, 32 + 25)
    assert features.black_box(narrow)[:, trailing][:, :16].sum() == 0
    assert features.black_box(wide)[:, trailing][:, :16].sum(1) == pytest.approx(np.ones(4), abs=0.01)
    equal = features.with_reference(wide, wide)[:, 73]
    assert (equal == 1).all()


def test_the_classifier_separates_what_is_separable_and_nothing_else() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 5))
    y = np.repeat([0, 1], 100)
    prompt = np.tile(np.arange(100), 2)
    noise, _ = held_out(x, y, prompt, 2)
    assert not noise.better
    x[y == 1] += 3
    found, confusion = held_out(x, y, prompt, 2)
    assert found.low > 0.9
    assert confusion.sum() == 200
    assert (Linear().fit(x, y, 2).predict(x) == y).mean() > 0.98


def test_no_prompt_is_on_both_sides_of_a_split() -> None:
    """Samples of one prompt are equal here: a split by sample would name all of them."""
    random = np.random.default_rng(2)
    x = np.repeat(random.normal(size=(40, 6)), 2, axis=0)
    prompt = np.repeat(np.arange(40), 2)
    y = np.repeat(random.integers(0, 2, 40), 2)
    assert not held_out(x, y, prompt, 2)[0].low > 0.6


def test_wilsons_interval() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.490, abs=0.001), pytest.approx(0.943, abs=0.001))
    assert Accuracy(5, 10, 0.5).better is False


def test_a_golden_file_knows_itself_and_notices_another_format(tmp_path: Path) -> None:
    path = tmp_path / "numerics.json"
    golden.save(golden.make(BF16, "wb-1m", 6), path)
    saved = golden.read(path)
    same = golden.check(saved, [FP32, BF16])
    assert same.identical
    assert same.looks_like == ("weights=bf16",)
    assert "Unchanged" in str(same)
    data = json.loads(path.read_text())
    data["changes"] = {"weights": "int4"}
    path.write_text(json.dumps(data))
    other = golden.check(golden.read(path), [])
    assert other.same == 0
    assert other.largest > 0
    assert "other bits on 6 of 6" in str(other)
    assert "/" not in json.dumps({k: v for k, v in data.items() if k not in ("versions", "processor")})


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"format": 99}'])
def test_a_damaged_golden_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(StoreError):
        golden.read(path)


def test_border_prompts_come_nearer_to_a_tie_and_tell_formats_apart() -> None:
    from workbench.fingerprint.collect import last_logits, opened, prompts_of

    with opened(FP32, "wb-1m") as model:
        start = prompts_of(model.tokenizer, 12)
        before = border.margin(last_logits(model, FP32, start))
        after = border.margin(last_logits(model, FP32, border.sharpen(model, FP32, start, 12)))
    assert (after <= before).all()
    assert np.median(after) < 0.5 * np.median(before)
    _, pairs = border.search([FP32, INT4], "wb-1m", count=12, rounds=12)
    assert pairs["weights=fp32", "weights=int4"] > 0


def test_available_configurations_have_names_of_their_own() -> None:
    names = [c.name for c in available()]
    assert len(names) == len(set(names)) >= 6
    assert {"weights=fp32", "weights=bf16", "weights=int8", "weights=int4"} <= set(names)


def test_an_impossible_configuration_is_left_out_with_its_reason() -> None:
    odd = Config("odd", {"weights": "int4", "weights.group": 7})
    result = collect([BF16, odd], "wb-1m", count=4)
    assert list(result.logits) == ["weights=bf16"]
    assert "group" in result.skipped["odd"]
