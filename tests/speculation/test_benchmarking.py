"""The benchmark's counts against plain facts, its state, its refusals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import Cancelled, SettingsError
from workbench.runtime import load
from workbench.runtime.model import Model
from workbench.settings import Settings
from workbench.speculation import prompts
from workbench.speculation.benchmarking import Benchmark

BASE = Settings().with_({"limits.max_new_tokens": 16, "telemetry.preset": "off", "telemetry.power": False,
                         "sampling.temperature": 0.0, "limits.stop_at_eos": False})


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    found = load(BASE, lambda event: None)
    yield found
    found.close()


def some(*kinds: str) -> dict[str, list[prompts.Prompt]]:
    return {kind: prompts.generated(2, seed=1, kinds=(kind,)) for kind in kinds}


def test_counts_are_those_of_the_runs(model: Model) -> None:
    found = Benchmark(model, BASE, ["draft_model", "prompt_lookup"], some("copy", "math"), repeats=1).run()
    assert not found.skipped
    plain = found.row("plain").summary
    assert (plain.new, plain.per_forward, plain.ratio) == (4 * 15, 1.0, 1.0)
    assert (plain.drafted, plain.acceptance, plain.length, plain.extra_bytes) == (0, None, None, 0)
    for method in ("draft_model", "prompt_lookup"):
        row = found.row(method)
        assert row.summary.same == row.summary.runs == 4  # lossless, same kernels
        assert (row.near_ties, row.bugs) == (0, 0)
        assert row.summary.new == 60
        assert row.summary.forwards_per_token == pytest.approx(1 / row.summary.per_forward)
    draft = found.row("draft_model")
    assert draft.summary.per_forward > 1.2
    assert draft.summary.extra_bytes > 1_000_000  # the draft's weights
    kinds = [found.row("draft_model", kind).summary for kind in ("copy", "math")]
    assert draft.summary.drafted == sum(k.drafted for k in kinds)


def test_batches_compare_every_sequence(model: Model) -> None:
    found = Benchmark(model, BASE, ["token_recycling"], some("code"), repeats=1, batch=2).run()
    assert found.row("token_recycling").summary.runs == 1
    assert found.row("token_recycling").summary.new == 2 * 15
    assert found.row("token_recycling").summary.same == 1


def test_what_cannot_work_is_left_out_with_its_reason(model: Model) -> None:
    found = Benchmark(model, BASE, ["draft_model(draft=/nowhere)"], some("math"), repeats=1).run()
    [(name, why)] = found.skipped.items()
    assert name == "draft_model(draft=/nowhere)"
    assert "nowhere" in why
    assert [r.method for r in found.rows] == ["plain", "plain"]


def test_a_head_that_is_not_there_is_left_out_too(model: Model) -> None:
    """Settings refuse it before anything runs; the others go on."""
    base = BASE.with_({"model.source": "/some/model/without/heads"})
    bench = Benchmark(model, base, ["medusa", "prompt_lookup"], some("math"), repeats=1)
    assert "medusa" in bench.skipped["medusa"]
    assert list(bench.settings) == ["plain", "prompt_lookup"]


def test_the_processs_clock(model: Model) -> None:
    """Sleeping neighbours do not count: the CPU's seconds are at most the wall's, with one thread."""
    from workbench.speculation.measuring import decode

    settings = BASE.with_({"compute.threads": 1, "limits.max_new_tokens": 40})
    began = time.perf_counter()
    found = decode(model, settings, ["Compute step by step."], clock="cpu")
    assert 0 < found.seconds <= (time.perf_counter() - began) * 1.1
    with pytest.raises(SettingsError, match="sundial"):
        Benchmark(model, BASE, [], some("math"), clock="sundial")


def test_a_method_that_does_not_exist_is_refused(model: Model) -> None:
    with pytest.raises(SettingsError, match="prompt_lookup"):
        Benchmark(model, BASE, ["promt_lookup"], some("math"))


def test_it_goes_on_where_it_was_cancelled(model: Model, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    seen: list[str] = []

    def told(done: int, total: int, what: str) -> None:
        seen.append(what)

    first = Benchmark(model, BASE, ["prompt_lookup"], some("copy", "math"), repeats=1, state=state, told=told,
                      cancelled=lambda: len([s for s in seen if s in ("copy", "math")]) > 2)
    with pytest.raises(Cancelled):
        first.run()
    kept = json.loads(state.read_text())["done"]
    assert len(kept) == 2
    second = Benchmark(model, BASE, ["prompt_lookup"], some("copy", "math"), repeats=1, state=state)
    found = second.run()
    assert found.row("prompt_lookup").summary.runs == 4
    after = json.loads(state.read_text())["done"]
    assert {k: after[k] for k in kept} == kept  # nothing was measured twice
    other = Benchmark(model, BASE, ["jacobi"], some("copy", "math"), repeats=1, state=state)
    assert other._done == {}


def test_half_a_turn_is_kept_but_not_shown(model: Model, tmp_path: Path) -> None:
    """A turn longer than the time that there is would else begin anew for ever."""
    state = tmp_path / "state.json"
    calls: list[int] = []
    methods = ["prompt_lookup", "token_recycling"]
    first = Benchmark(model, BASE, methods, some("copy"), repeats=1, state=state)
    whole = first._decode

    def decode_twice(*given: Any) -> Any:
        calls.append(1)
        if len(calls) > 4:  # the first turn has three; the second begins with another method than plain
            raise Cancelled("enough")
        return whole(*given)

    first._decode = decode_twice  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        first.run()
    assert sorted(map(len, json.loads(state.read_text())["done"].values())) == [1, 3]
    shown = first.results()
    assert [r.summary.runs for r in shown.rows] == [1] * len(shown.rows)
    second = Benchmark(model, BASE, methods, some("copy"), repeats=1, state=state)
    again: list[str] = []
    whole_again = second._decode
    second._decode = lambda m, p: again.append(m) or whole_again(m, p)  # type: ignore
    assert second.run().row("token_recycling").summary.runs == 2
    assert len(again) == 2
    assert "prompt_lookup" not in again


def test_generated_prompts_are_many_different_and_always_the_same() -> None:
    found = prompts.generated(200)
    assert len({p.text for p in found}) == 200
    assert {p.kind for p in found} == set(prompts.KINDS)
    assert [p.text for p in prompts.generated(200)] == [p.text for p in found]


def test_a_folder_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps({"category": "qa", "turns": ["Why?", "And?"]}) + "\n")
    (tmp_path / "code-1.txt").write_text("def f(")
    found = prompts.folder(tmp_path)
    assert {k: [p.text for p in rows] for k, rows in found.items()} == {"qa": ["Why?"], "code": ["def f("]}
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(SettingsError, match=r"bad\.jsonl, line 1"):
        prompts.folder(tmp_path)
    with pytest.raises(SettingsError, match="no folder"):
        prompts.folder(tmp_path / "none")


def test_quartiles_stay_within_what_was_measured() -> None:
    from workbench.speculation.measuring import Decoded, summarize

    def decoded(rate: float) -> Decoded:
        return Decoded([[1, 2]], rate, 1.0, 8, 8, 0, 0, 0, 0.0, 1.0, 0, 0)

    found = summarize([(decoded(200.0), decoded(100.0)), (decoded(300.0), decoded(100.0))])
    assert (found.ratio, found.ratio_low, found.ratio_high) == (2.5, 2.25, 2.75)
    alone = summarize([(decoded(200.0), decoded(100.0))])
    assert (alone.ratio, alone.ratio_low, alone.ratio_high) == (2.0, 2.0, 2.0)


def test_a_draft_that_others_loaded_is_not_a_methods_own(model: Model) -> None:
    """LUD decodes beside the draft model that the method before it left in memory."""
    found = Benchmark(model, BASE, ["draft_model", "lud"], some("math"), repeats=1).run()
    assert found.row("draft_model").summary.extra_bytes > 1_000_000
    assert found.row("lud").summary.extra_bytes < 100_000
    assert found.row("lud").near_ties is None
