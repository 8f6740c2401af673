"""The tools of the gradient estimators."""

import pytest
import torch
from oracles import all_binary_images, tiny_vae

from latentlab.gradients import frozen, leave_one_out, with_gradient_of_square, with_value

X = all_binary_images((1, 2, 2))[:3]


def test_frozen_model_leaves_only_the_path_through_z():
    vae = tiny_vae(latent_dim=2)
    z = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    live, cold = vae(X, samples=4, zs=[z]), frozen(vae)(X, samples=4, zs=[z])
    torch.testing.assert_close(cold.log_w, live.log_w)
    cold.log_w.sum().backward()
    assert all(parameter.grad is None for parameter in vae.parameters())
    (expected,) = torch.autograd.grad(live.log_w.sum(), z)
    torch.testing.assert_close(z.grad, expected)


def test_with_value_has_the_value_of_one_and_the_gradient_of_the_other():
    a = torch.tensor(3.0, requires_grad=True)
    mixed = with_value(a**2, 5 * a)
    mixed.backward()
    assert mixed.item() == 9.0 and a.grad.item() == 5.0


def test_leave_one_out_against_a_loop():
    values = torch.randn(4, 3, dtype=torch.float64)
    expected = torch.stack([torch.cat([values[:k], values[k + 1 :]]).mean(0) for k in range(4)])
    torch.testing.assert_close(leave_one_out(values), expected)


def test_leave_one_out_needs_two():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        leave_one_out(torch.zeros(1, 3))


def test_the_sources_get_the_gradient_of_the_square_and_the_rest_that_of_the_loss():
    a, b = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    source = a.exp()
    loss = source * b.sin()
    (squared,) = torch.autograd.grad((loss**2).mean() / 3, a, retain_graph=True)
    (own,) = torch.autograd.grad(loss.mean(), b, retain_graph=True)
    given = with_gradient_of_square(loss, (source, torch.zeros(5)), scale=3)
    assert given is loss
    given.mean().backward()
    torch.testing.assert_close(a.grad, squared)
    torch.testing.assert_close(b.grad, own)
