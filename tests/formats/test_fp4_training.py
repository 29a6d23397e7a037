"""Four-bit training, emulated: unbiased where it should be, blocks along the contracted axis; it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.errors import SettingsError
from workbench.formats import blocks, fp4_training
from workbench.formats.fp4_training import Linear4, Recipe, convert, product


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_forward_product_reads_blocks_along_the_columns() -> None:
    recipe = Recipe(stochastic="none", hadamard=0)
    layer, x = Linear4(32, 8, recipe, bias=False), draw(5, 32)
    form = recipe.format()
    expected = blocks.fake(x, form) @ blocks.fake(layer.weight.detach(), form).T
    torch.testing.assert_close(layer(x), expected)


def test_gradients_are_products_of_operands_blocked_their_own_way() -> None:
    recipe = Recipe(stochastic="none", hadamard=0)
    layer, x, dy = Linear4(32, 16, recipe, bias=False), draw(48, 32).requires_grad_(), draw(48, 16, seed=1)
    layer(x).backward(dy)
    form, w = recipe.format(), layer.weight.detach()
    torch.testing.assert_close(x.grad, blocks.fake(dy, form) @ blocks.fake(w, form, axis=0))
    torch.testing.assert_close(layer.weight.grad,
                               blocks.fake(dy, form, axis=0).T @ blocks.fake(x.detach(), form, axis=0))


def test_turned_off_it_is_an_ordinary_layer() -> None:
    layer, x = Linear4(32, 16, Recipe(products=())), draw(4, 3, 32).requires_grad_()
    plain = nn.Linear(32, 16)
    plain.load_state_dict(layer.state_dict())
    layer(x).square().sum().backward()
    mine, x.grad = x.grad, None
    plain(x).square().sum().backward()
    torch.testing.assert_close(mine, x.grad)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)


def test_stochastic_gradients_have_no_bias_and_nearest_ones_do() -> None:
    a, b = draw(4, 64), torch.ones(4, 64) * 6
    a[:, ::16] = 4.0  # the block's largest: 1 is then 1.5 of 6, so rounding to nearest goes one way
    a[:, 1::16] = 0.9
    exact = a @ b.T

    def bias(noisy: bool) -> float:
        found = [product(a, b, Recipe(hadamard=0), False, (noisy, False), i)
                 for i in range(400 if noisy else 1)]
        return float((torch.stack(found).mean(0) - exact).abs().mean())
    assert bias(True) < 0.25 * bias(False)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(scale="ue5m3", tensor_scale=False),
                                    Recipe(scale="e8m0", block=32)])
def test_a_small_network_learns_in_four_bits(recipe: Recipe) -> None:
    torch.manual_seed(0)
    x = draw(256, 32)
    y = torch.sin(x @ draw(32, 4, seed=2) / 3)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    assert convert(model, recipe) == 1
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = last = 0.0
    for _ in range(80):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
        first = first or last
    assert last < 0.35 * first


@pytest.mark.parametrize(("call", "says"), [
    (lambda: Recipe(stochastic="some"), "none, gradients or all"),
    (lambda: Recipe(hadamard=12), "power of two"),
    (lambda: Recipe(scale="fp3"), "choose one of"), (lambda: Recipe(products=("backward",)), "products"),
    (lambda: convert(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), Recipe()), "no linear layer"),
])
def test_bad_input_is_one_sentence(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match=says):
        call()


def test_it_is_the_same_again_with_the_same_seed() -> None:
    x, w = draw(8, 32), draw(8, 32, seed=1)
    one, two, other = (fp4_training.product(x, w, Recipe(seed=s), True, (True, True), 5) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
