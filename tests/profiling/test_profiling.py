"""Any module profiled: times that sum, costs from shapes, memory by storage, one sentence for bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import gallery
from workbench.analysis import modules as of
from workbench.errors import Cancelled, SettingsError
from workbench.events import Interference, Kernel, KernelWindow, Memory, Note, Phase, Slice
from workbench.panels import panel, panels
from workbench.profiling.costs import Cost, count, size
from workbench.profiling.inputs import maker
from workbench.profiling.paths import MARK, Paths
from workbench.profiling.window import PYTHON, reduce
from workbench.store import Store, replay
from workbench.telemetry.reduction import Raw


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


class Two(nn.Module):
    """A linear layer used twice, the second time on half of the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.inner(self.inner(x)[: len(x) // 2]) * scale


def quick(module: Any, inputs: Any, store: Store, **more: Any) -> wb.Run:
    return wb.profile(module, inputs, steps=4, warmup=1, windows=2, power=False, store=store, **more)


def test_a_profiled_module_is_a_run_like_others(store: Store) -> None:
    module, inputs = gallery.make("vision_transformer", batch=2)
    run = quick(module, inputs, store, name="vit")
    assert (run.label, run.status) == ("vit", "done")
    again = store.open(run.id)
    phases = [e for e in again.events if isinstance(e, Phase)]
    assert [p.phase for p in phases] == ["forward"] * 4
    assert all(p.end_s > p.start_s and p.rows == 2 for p in phases)
    assert again.metrics["forward_p50_s"].value > 0
    assert again.metrics["items_per_s"].value == pytest.approx(
        8 / sum(p.end_s - p.start_s for p in phases))
    assert "no tokens" in again.metrics["tok_per_s"].reason
    assert again.effective["compute.device"]["effective"] == "cpu"
    played = replay(again, speed=1e6)
    assert played.wait(5)
    assert len(played.events) == len(again.events)


def test_a_windows_rows_sum_to_its_forward(store: Store) -> None:
    for name in ("vision_transformer", "diffusion_unet", "interatomic_potential", "expert_layer"):
        module, inputs = gallery.make(name, batch=2)
        run = quick(module, inputs, store)
        windows = {w.window: w for w in run.events if isinstance(w, KernelWindow)}
        assert list(windows) == [1, 2]
        for number, window in windows.items():
            total = sum(k.total_s for k in run.events if isinstance(k, Kernel) and k.window == number)
            assert total == pytest.approx(window.end_s - window.start_s, rel=0.01), name
            assert window.overhead_s > 0
            assert window.host_events > 10
        assert [s for s in run.events if isinstance(s, Slice)]


def test_kernels_carry_the_path_and_class_of_their_module(store: Store) -> None:
    module, inputs = gallery.make("vision_transformer", batch=2)
    run = quick(module, inputs, store)
    rows = [k for k in run.events if isinstance(k, Kernel) and k.name == "aten::addmm"]
    assert {of.path_of(k) for k in rows} >= {("blocks.2.mlp.0", "Linear"), ("head", "Linear"),
                                             ("blocks.0.attention.qkv", "Linear")}
    assert {k.layer for k in rows} == {-1, 0, 1, 2, 3}
    mlp = next(k for k in rows if of.path_of(k)[0] == "blocks.2.mlp.0")
    assert mlp.flops == 2 * 130 * 96 * 384
    assert mlp.bytes == 4 * (130 * 96 + 96 * 384 + 384 + 130 * 384)
    assert {p.name for p in of.by_class(run.events)} >= {"Linear", "LayerNorm", "GELU", "Conv2d"}


def test_a_planted_slow_module_is_named_first(store: Store) -> None:
    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(60):
                x = x @ x / 8
            return x

    module = nn.Sequential(nn.Linear(64, 64), Slow(), nn.Linear(64, 64))
    run = quick(module, torch.randn(64, 64), store)
    assert of.by_module(run.events)[0].name == "1"
    assert of.by_class(run.events)[0].name == "Slow"


def test_costs_follow_the_shapes_that_pass_through() -> None:
    module, x = Two(), torch.randn(10, 64)
    paths = Paths(module)
    with torch.no_grad():
        costs = count(module, maker(x)(), paths)
    linear = costs.ops[paths.names.index("inner"), "aten::addmm"]
    assert linear.calls == 2
    assert linear.flops == 2 * 64 * 64 * (10 + 5)
    weights = 64 * 64 + 64
    assert linear.bytes == 4 * (2 * weights + 2 * 64 * (10 + 5))
    assert costs.ops[0, "aten::mul"].bytes == 4 * 2 * 5 * 64
    assert not any("slice" in name or name == "aten::t" for _, name in costs.ops)  # views move nothing
    # Two products of 10 and 5 rows are alive together, then one of 5 beside its half of the first.
    assert costs.peak_bytes == 4 * 64 * (10 + 5)
    assert not module.inner._forward_hooks
    assert not module.inner._forward_pre_hooks


def test_flops_equal_torchs_own_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for name in ("diffusion_unet", "tabular_transformer", "matting_unet", "many_small_networks"):
        module, inputs = gallery.make(name, batch=2)
        with torch.no_grad():
            ours = count(module, maker(inputs)(), Paths(module)).flops
            with FlopCounterMode(display=False) as theirs, torch.nn.attention.sdpa_kernel(
                    torch.nn.attention.SDPBackend.MATH):
                module(*(inputs if isinstance(inputs, tuple) else (inputs,)))
        assert ours == theirs.get_total_flops() > 0, name


def test_live_memory_is_that_of_storages_and_is_given_back() -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            big = x[:, None].expand(-1, 1000, -1) + 1.0
            view = big[:, 1:].transpose(1, 2)  # a view holds nothing of its own
            return view.sum((1, 2)).clone()

    x = torch.randn(4, 16)
    module = Wide()
    with torch.no_grad():
        costs = count(module, maker(x)(), Paths(module))
    assert 4 * 4 * 1000 * 16 <= costs.peak_bytes <= 4 * 4 * 1000 * 16 + 64
    assert costs.timeline[-1][2] < 100


def test_an_expanded_dimension_is_read_once() -> None:
    assert size(torch.zeros(3, 1, 5).expand(3, 7, 5)) == 60
    assert size(torch.zeros(0, 4)) == 0
    assert size(torch.zeros(3, dtype=torch.int8)) == 3


def test_children_belong_to_the_operator_that_the_dispatcher_saw() -> None:
    def event(name: str, start: float, seconds: float) -> Raw:
        return Raw(name, start, seconds, False, 1, 0)

    events = [event(f"{MARK}0", 0, 10), event("aten::linear", 1, 4), event("aten::addmm", 2, 2),
              event("aten::copy_", 2.5, 1), event(f"{MARK}1", 6, 3), event("aten::relu", 6.5, 2)]
    seen = reduce(events, {(0, "aten::addmm")})
    rows = {(m, n): r.total_s for (m, n, _, _), r in seen.rows.items()}
    assert rows == {(0, PYTHON): 3, (0, "aten::linear"): 2, (0, "aten::addmm"): 2, (1, PYTHON): 1,
                    (1, "aten::relu"): 2}
    assert sum(rows.values()) == seen.whole_s == 10


def test_a_range_that_outlives_the_one_around_it_is_not_counted_twice() -> None:
    def event(name: str, start: float, seconds: float) -> Raw:
        return Raw(name, start, seconds, False, 1, 0)

    events = [event(f"{MARK}0", 0, 10), event("aten::linear", 1, 4), event("aten::addmm", 2, 3.5),
              event("aten::relu", 6, 2)]
    seen = reduce(events, set())
    assert sum(r.total_s for r in seen.rows.values()) == seen.whole_s == 10
    assert seen.rows[(0, "aten::linear", "op", "cpu")].total_s == 1


def test_floors_are_the_larger_of_two_times() -> None:
    from workbench.profiling.ceilings import Ceilings

    here = Ceilings({"ram_bytes_per_s": 1e9, "gemm_fp32_flops": 1e11, "gemm_bf16_flops": 4e11}, False)
    assert here.floor_s(Cost(bytes=10**6, flops=10**6, dtype="float32")) == pytest.approx(1e-3)
    assert here.floor_s(Cost(bytes=10, flops=10**9, dtype="bfloat16")) == pytest.approx(2.5e-3)
    assert here.floor_s(Cost(bytes=10, flops=10**9, dtype="int8")) is None
    assert Ceilings({}, False).floor_s(Cost(bytes=10)) is None
    assert "doctor" in Ceilings({}, False).reason


@pytest.mark.parametrize(("inputs", "said"), [
    (torch.randn(3, 65), "cannot run on"), ({"y": torch.randn(3, 64)}, "cannot run on"),
    ("text", "type str"), ({1: torch.randn(3, 64)}, "keys must be names"), (3.0, "type float"),
    ((), "cannot run on")])
def test_bad_inputs_are_one_sentence_and_leave_no_run(inputs: Any, said: str, store: Store) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        quick(Two(), inputs, store)
    assert "\n" not in str(caught.value)
    assert store.runs() == []


@pytest.mark.parametrize(("module", "said"), [
    (Two, "is a class"), (torch.relu, "not a torch.nn.Module"), (None, "not a torch.nn.Module")])
def test_what_is_no_module_is_said(module: Any, said: str, store: Store) -> None:
    with pytest.raises(SettingsError, match=said):
        quick(module, torch.randn(2, 64), store)


def test_a_module_without_values_is_refused(store: Store) -> None:
    with torch.device("meta"):
        module = nn.Linear(4, 4)
    with pytest.raises(SettingsError, match="meta device"):
        quick(module, torch.randn(2, 4), store)


@pytest.mark.parametrize("more", [{"steps": 0}, {"steps": 1.5}, {"windows": -1}, {"warmup": True}])
def test_counts_out_of_range_are_refused(more: dict[str, Any], store: Store) -> None:
    with pytest.raises(SettingsError, match=next(iter(more))):
        wb.profile(Two(), torch.randn(2, 64), store=store, **more)


def test_keywords_and_makers_are_inputs_too(store: Store) -> None:
    made: list[int] = []

    def inputs() -> dict[str, Any]:
        made.append(1)
        return {"x": torch.randn(6, 64), "scale": 2.0}

    run = quick(Two(), inputs, store)
    assert len(made) >= 1 + 1 + 4 + 2
    assert [e.rows for e in run.events if isinstance(e, Phase)] == [6] * 4


def test_a_module_that_fails_later_keeps_a_failed_run(store: Store) -> None:
    class Later(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls > 4:
                raise RuntimeError("planted")
            return x + 1

    module = Later()
    with pytest.raises(RuntimeError, match="planted"):
        quick(module, torch.randn(2, 4), store)
    assert [(r.status, "planted" in r.error) for r in store.runs()] == [("failed", True)]
    assert not module._forward_hooks
    assert not torch.autograd._profiler_enabled()  # type: ignore[attr-defined]


def test_cancelling_keeps_the_forwards_so_far(store: Store) -> None:
    seen: list[str] = []
    with pytest.raises(Cancelled):
        wb.profile(Two(), torch.randn(4, 64), steps=50, power=False, store=store,
                   progress=lambda what, share: seen.append(what),
                   cancelled=lambda: seen.count("timing") >= 2)
    (run,) = store.runs()
    assert run.status == "cancelled"
    assert 8 <= len([e for e in run.events if isinstance(e, Phase)]) < 50


def test_training_mode_is_said_and_gradients_work(store: Store) -> None:
    class Learns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            loss = self.inner(x).square().sum()
            loss.backward()
            return loss.detach()

    run = quick(Learns().train(), torch.randn(4, 8), store, grad=True)
    assert any("training mode" in e.text for e in run.events if isinstance(e, Note))
    assert torch.is_grad_enabled()


def test_memory_and_neighbours_are_in_the_run(store: Store) -> None:
    module, inputs = gallery.make("diffusion_unet", batch=4)
    run = wb.profile(module, inputs, steps=30, power=False, store=store)
    held = [e for e in run.events if isinstance(e, Memory)]
    weights = sum(p.numel() * 4 for p in module.parameters())
    assert {m.weights_bytes for m in held} == {weights}
    assert of.peak_activations(run.events) > 4 * 4 * 32 * 32 * 32
    assert [e.t_s for e in held] == sorted(e.t_s for e in held)
    assert [e for e in run.events if isinstance(e, Interference)]


def test_a_baseline_is_compared_and_the_slower_module_named(store: Store) -> None:
    fast = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))
    slow = nn.Sequential(nn.Linear(256, 256), nn.Sequential(*(nn.Linear(256, 256) for _ in range(40))))
    x = torch.randn(64, 256)
    base = quick(fast, x, store, name="fast")
    run = quick(slow, x, store, name="slow", baseline=base.id)
    content = panel("modules").content(run, base)
    assert not content.empty
    said = " ".join(content.sentences)
    assert "times as slow as fast" in said
    assert "Take care" in said or "largest change is in" in said
    assert len(content.figures[0]["data"]) == 2
    assert any(isinstance(e, Note) and base.id in e.text for e in run.events)


def test_every_panel_takes_a_module_and_the_module_panel_takes_text(store: Store) -> None:
    run = quick(Two(), torch.randn(4, 64), store)
    for p in panels():
        content = p.content(run)
        assert content.empty or content.sentences or content.figures or content.tables, p.key
        assert "could not be drawn" not in content.empty, (p.key, content.empty)


def test_the_command_profiles_the_gallery_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from workbench.cli import run_command

    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    assert run_command(["profile", "--gallery", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(gallery.names())
    assert run_command(["profile", "--gallery", "expert_layer", "--steps", "3", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["metrics"]["forward_p50_s"] > 0
    mine = tmp_path / "mine.py"
    mine.write_text("import torch\ndef make():\n    return torch.nn.Linear(4, 4), torch.randn(2, 4)\n")
    assert run_command(["profile", f"{mine}:make", "--steps", "2", "--baseline", data["run"]]) == 0
    assert "Linear" in capsys.readouterr().out
    for bad in (["profile"], ["profile", "--gallery", "nope"], ["profile", f"{mine}:absent"],
                ["profile", "no/such.py:make"], ["profile", "plain"]):
        assert run_command(bad) == 2, bad
        assert capsys.readouterr().err.count("\n") == 1
