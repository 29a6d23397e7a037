"""Every stand-in runs, is small, repeats itself, and has the property that its paper rests on."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench import gallery
from workbench.errors import SettingsError


def called(module: Any, inputs: Any) -> Any:
    with torch.no_grad():
        return module(*(inputs if isinstance(inputs, tuple) else (inputs,)))


def leaves(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in leaves(v)]


@pytest.mark.parametrize("name", gallery.names())
def test_an_entry_runs_quickly_repeats_itself_and_says_what_it_leaves_out(name: str) -> None:
    module, inputs = gallery.make(name, batch=2, seed=3)
    first = leaves(called(module, inputs))
    began = time.perf_counter()
    again = leaves(called(module, inputs))
    assert time.perf_counter() - began < 5  # under a second on an idle machine
    assert all(torch.isfinite(t.double()).all() for t in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other, others = gallery.make(name, batch=2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, leaves(called(other, others)), strict=True))
    assert all(len(t) == 2 for t in first)
    assert gallery.entry(name).PAPER
    assert gallery.entry(name).LEFT_OUT
    assert sum(p.numel() for p in module.parameters()) < 2_000_000


def test_listing_needs_no_torch() -> None:
    import subprocess
    import sys

    code = ("import sys; from workbench import gallery; t = gallery.titles(); assert len(t) > 15; "
            "assert all(t.values()); assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(("name", "options", "said"), [
    ("vision_transfromer", {}, "vision_transformer"), ("integer_vit", {"dtype": "bfloat16"}, "integers"),
    ("vision_transformer", {"batch": 0}, "batch=0"), ("vision_transformer", {"dtype": "int8"}, "int8")])
def test_bad_requests_are_one_sentence(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        gallery.make(name, **options)


def test_bfloat16_is_close_to_float32() -> None:
    a, x = gallery.make("vision_transformer", batch=2)
    b, y = gallery.make("vision_transformer", batch=2, dtype="bfloat16")
    assert y.dtype is torch.bfloat16
    assert (called(a, x) - called(b, y).float()).abs().max() < 0.1


# -- what each architecture rests on ------------------------------------------------------------


def test_the_integer_transformer_computes_no_floating_point() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    module, inputs = gallery.make("integer_vit", batch=2)
    floats: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            floats.extend(str(func) for t in tree_leaves(out)
                          if isinstance(t, torch.Tensor) and t.is_floating_point())
            return out

    with Watch():
        module(inputs)
    assert floats == []


def test_integer_functions_are_near_the_real_ones() -> None:
    from workbench.gallery import integer_vit as iv

    v = torch.cat([torch.arange(0, 200_000), torch.tensor([10**12, 10**12 + 1, 2**40])])
    assert torch.equal(iv.integer_sqrt(v), torch.sqrt(v.double()).floor().long())
    unit = 256
    x = torch.arange(-10 * unit, 1)
    exact = torch.exp(x.double() / unit)
    assert (iv.shift_exp(x, unit, 15).double() / 2**15 - exact).abs().max() < 0.047
    scores = torch.randint(-800, 800, (20, 64))
    soft = iv.shiftmax(scores, unit).double() / 2**15
    assert (soft - (scores.double() / unit).softmax(-1)).abs().max() < 0.05
    assert (soft.sum(-1) - 1).abs().max() < 0.01
    g = torch.arange(-128, 128)
    gelu = torch.nn.functional.gelu(g.double() / 16) * 16
    assert (iv.shift_gelu(g, 16).double() - gelu).abs().max() < 2.0


def test_enough_one_way_filters_are_the_dense_convolution() -> None:
    from workbench.gallery.separable_cnn import Separable

    dense, split = torch.nn.Conv2d(1, 4, 5, padding=2), Separable(1, 4, 5, rank=5)
    split.copy_from(dense)
    x = torch.randn(2, 1, 16, 16)
    assert (dense(x) - split(x)).abs().max() < 1e-5
    thin = Separable(1, 4, 5, rank=1)
    thin.copy_from(dense)
    assert (dense(x) - thin(x)).abs().max() > 1e-3


def test_test_rows_see_only_training_rows_whose_order_is_free() -> None:
    module, (rows, labels) = gallery.make("tabular_transformer", batch=1)
    out = called(module, (rows, labels))
    order = torch.randperm(64)
    mixed = torch.cat([rows[:, :64][:, order], rows[:, 64:]], 1)
    assert (called(module, (mixed, labels[:, order])) - out).abs().max() < 1e-4
    changed = rows.clone()
    changed[:, 70] += 1
    moved = (called(module, (changed, labels)) - out).abs().amax(-1)[0]
    assert moved[6] > 1e-3
    assert moved[torch.arange(32) != 6].max() < 1e-6


def test_the_consistency_function_is_the_identity_at_the_lowest_noise() -> None:
    module, (_, noise) = gallery.make("consistency_speech", batch=1)
    mean = torch.zeros_like(noise)
    with torch.no_grad():
        assert (module.clean(noise, mean, module.LOW) - noise).abs().max() < 1e-6
        assert (module.clean(noise, mean, 1.0) - noise).abs().max() > 1e-2


def test_merged_updates_give_the_same_boxes() -> None:
    module, inputs = gallery.make("low_rank_tracker")
    before = called(module, inputs)
    layers = len([m for m in module.modules() if type(m).__name__ == "LowRank"])
    assert layers == 16
    assert (called(module.merge(), inputs) - before).abs().max() < 1e-4
    assert not [m for m in module.modules() if type(m).__name__ == "LowRank"]


def test_forces_are_the_slope_of_the_energy_and_turn_with_the_atoms() -> None:
    module, (positions, kinds) = gallery.make("interatomic_potential")
    module, positions = module.double(), positions.double()
    energy, forces = called(module, (positions, kinds))
    step = torch.zeros_like(positions)
    step[0, 3, 1] = 1e-5
    up, _ = called(module, (positions + step, kinds))
    down, _ = called(module, (positions - step, kinds))
    assert float((down - up) / 2e-5) == pytest.approx(float(forces[0, 3, 1]), rel=1e-4)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turned, pulled = called(module, (positions @ turn, kinds))
    assert float(turned) == pytest.approx(float(energy), rel=1e-4)
    assert (pulled - forces @ turn).abs().max() < 1e-3


def test_splats_blend_to_at_most_one_and_move_with_time() -> None:
    module, _ = gallery.make("gaussian_splatting")
    with torch.no_grad():
        weights = module.weights(torch.tensor([0.2, 0.8]))
        assert weights.min() >= 0
        assert weights.sum(1).max() <= 1 + 1e-5
        now, later = module(torch.tensor([0.2, 0.8]))
    assert (now - later).abs().max() > 0.01


def test_fused_networks_give_the_same_price() -> None:
    module, paths = gallery.make("many_small_networks", batch=8)
    apart = called(module, paths)
    module.fused = True
    assert (called(module, paths) - apart).abs().max() < 1e-3


def test_experts_that_no_token_chose_do_not_run() -> None:
    module, x = gallery.make("expert_layer")
    ran: list[int] = []
    for i, up in enumerate(module.up):
        up.register_forward_hook(lambda m, a, o, i=i: ran.append(i))
    with torch.no_grad():
        module.threshold[5] = 1e9
        module(x)
        used = {int(i) for i in module.gates(module.norm(x).flatten(0, -2)).nonzero()[:, 1]}
    assert 5 not in ran
    assert set(ran) == used


def test_the_chunked_scan_is_the_recurrence() -> None:
    from workbench.gallery.selective_state_space import scan

    decay, added = -torch.rand(2, 50, 3, 4), torch.randn(2, 50, 3, 4)
    state, expected = torch.zeros(2, 3, 4), []
    for t in range(50):
        state = decay[:, t].exp() * state + added[:, t]
        expected.append(state)
    for chunk in (1, 7, 16, 64):
        assert (scan(decay, added, chunk) - torch.stack(expected, 1)).abs().max() < 1e-4


def test_chunks_of_gated_attention_are_the_recurrence() -> None:
    from workbench.gallery.gated_linear_attention import chunked

    q, k, v = torch.randn(1, 2, 40, 4), torch.randn(1, 2, 40, 4), torch.randn(1, 2, 40, 6)
    gate = -3 * torch.rand(1, 2, 40, 4)
    state, expected = torch.zeros(1, 2, 4, 6), []
    for t in range(40):
        state = gate[:, :, t].exp()[..., None] * state + k[:, :, t, :, None] * v[:, :, t, None]
        expected.append((q[:, :, t, None] @ state)[:, :, 0])
    for chunk in (1, 8, 16, 64):
        assert (chunked(q, k, v, gate, chunk) - torch.stack(expected, 2)).abs().max() < 1e-4


def test_newton_finds_the_states_of_the_loop() -> None:
    module, x = gallery.make("newton_rnn")
    with torch.no_grad():
        exact = module.sequential(x)
        errors = []
        for module.iterations in (1, 2, 4):
            errors.append(float((module(x) - exact).abs().max()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


def test_the_matrix_transform_convolves_like_torchs() -> None:
    module, x = gallery.make("long_convolution")
    with torch.no_grad():
        ours = module.back(module.transform(x) * module.transform(module.kernel))[..., :module.length]
        n = 2 * module.length
        theirs = torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(module.kernel, n), n)
    assert (ours - theirs[..., :module.length]).abs().max() < 1e-3


def test_a_pixel_depends_on_no_later_one() -> None:
    module, image = gallery.make("axial_attention")
    out = called(module, image)
    for at in (37, 100, 255):
        changed = image.clone().view(-1)
        changed[at] = (changed[at] + 1) % 16
        moved = (called(module, changed.view_as(image)) - out).abs().amax(-1).view(-1)
        assert moved[:at + 1].max() == 0
        assert at == 255 or moved[at + 1:].max() > 0


def test_pairs_outside_of_the_windows_have_no_weight() -> None:
    module, x = gallery.make("tensor_attention")
    mask = module.mask(48, x.device)
    i, j, k = torch.meshgrid(*[torch.arange(48)] * 3, indexing="ij")
    assert torch.equal(mask, (i >= j) & (i - j < 16) & (i >= k) & (i - k < 8))
    out = called(module, x)
    later = x.clone()
    later[:, 40:] += 1
    assert (called(module, later) - out)[:, :40].abs().max() < 1e-6


def test_a_cell_sees_no_later_diagonal() -> None:
    module, _ = gallery.make("neighbour_image_decoder")
    tokens = torch.randint(0, 64, (1, 64))
    start = torch.tensor([1])
    with torch.no_grad():
        states = module.states(tokens, start)
        changed = tokens.clone()
        changed[0, 7 * 8 + 7] = (changed[0, 63] + 1) % 64
        assert (module.states(changed, start) - states)[:, :64].abs().max() < 1e-6


def test_every_file_states_its_paper_in_plain_text() -> None:
    for name in gallery.names():
        tree = ast.parse((Path(gallery.__file__).parent / f"{name}.py").read_text("utf-8"))
        named = {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets
                 if isinstance(t, ast.Name)}
        assert {"PAPER", "LEFT_OUT"} <= named, name
