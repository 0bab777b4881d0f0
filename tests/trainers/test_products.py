"""Matrix products through oneDNN against torch's own."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from palestra.trainers import products  # noqa: E402
from palestra.trainers.products import (  # noqa: E402
    Linear,
    product,
    speed_up,
    transposed_product,
)


@pytest.fixture(autouse=True)
def also_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_SMALL", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 3, 5), (40, 130, 64), (130, 7, 300)])
def test_products_equal_matmul(dtype: Any, m: int, n: int, k: int) -> None:
    torch.manual_seed(0)
    x, weight, grad = (torch.randn(*s).to(dtype) for s in ((m, k), (n, k), (m, n)))
    bound = 4e-2 * k**0.5 if dtype == torch.bfloat16 else 1e-4
    assert torch.allclose(product(x, weight), x @ weight.T, atol=bound)
    assert torch.allclose(product(grad, weight.T), grad @ weight, atol=bound)
    assert torch.allclose(transposed_product(grad, x), grad.T @ x, atol=bound)
    assert product(x, weight).dtype == dtype


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_and_its_gradients_equal_torchs(bias: bool) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(24, 40, bias)
    ours = torch.nn.Linear(24, 40, bias)
    ours.load_state_dict(plain.state_dict())
    speed_up(ours)
    assert type(ours) is Linear
    x, target = torch.randn(2, 9, 24), torch.randn(2, 9, 40)
    grads = []
    for layer in (plain, ours):
        inputs = x.clone().requires_grad_()
        (layer(inputs) - target).square().sum().backward()
        grads.append([inputs.grad, *(p.grad for p in layer.parameters())])
    for ours_grad, plain_grad in zip(grads[1], grads[0], strict=True):
        assert torch.allclose(ours_grad, plain_grad, atol=1e-3, rtol=1e-4)


def test_frozen_weights_get_no_gradient_and_others_do() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 2))
    speed_up(layer)
    layer[1].requires_grad_(False)
    layer(torch.randn(3, 6)).sum().backward()
    assert layer[1].weight.grad is None and layer[1].bias.grad is None
    assert layer[0].weight.grad is not None


def test_autocast_and_other_types_take_torchs_way() -> None:
    layer = torch.nn.Linear(8, 8)
    speed_up(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(3, 8)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(3, 8, dtype=torch.float64)).dtype == torch.float64


def test_only_plain_linear_layers_change() -> None:
    class Own(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(Own(2, 2), torch.nn.Linear(2, 2))
    names = list(model.state_dict())
    speed_up(model)
    assert type(model[0]) is Own and type(model[1]) is Linear
    assert list(model.state_dict()) == names
