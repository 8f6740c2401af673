"""Gradients of the real VAE by quadrature, with a prior that is made of the inference network among others."""

from functools import partial

import pytest
import torch
from estimates import exact_gradient
from oracles import Z_MAX, all_binary_images, exact_elbo, largest_z, tiny_vae
from torch import nn
from torch.distributions import Distribution
from torch.func import functional_call, grad, vmap

from latentlab.gradients import frozen
from latentlab.objectives import ELBO, STL, AnalyticELBO, DReG, ScoreFunction
from latentlab.priors import MixtureOfGaussiansPrior, StandardNormalPrior, VampPrior

X = all_binary_images((1, 2, 2))[[1, 6, 11]]
PRIORS = [
    StandardNormalPrior,
    partial(MixtureOfGaussiansPrior, num_components=3),
    partial(VampPrior, num_components=3),
]


def vae_with(prior):
    vae = tiny_vae(prior=prior)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return vae


def standard_normal(shape, dtype, device):
    return torch.randn(shape, dtype=dtype, device=device)


class Bound(nn.Module):
    def __init__(self, objective, vae):
        super().__init__()
        self.objective = objective
        self.vae = vae

    def forward(self):
        return self.objective(self.vae, X).sum()


def many_gradients(objective, vae, n):
    """n independent gradients, (n, P)."""
    module = Bound(objective, vae)
    parameters = dict(module.named_parameters())

    def bound(parameters, _):
        return functional_call(module, parameters)

    gradients = vmap(grad(bound), in_dims=(None, 0), randomness="different")(parameters, torch.zeros(n))
    return torch.cat([gradient.flatten(1) for gradient in gradients.values()], 1)


@pytest.mark.parametrize("prior", PRIORS, ids=["standard_normal", "mog", "vamp"])
@pytest.mark.parametrize("objective", [ELBO(2), AnalyticELBO(), STL(), DReG(1), ScoreFunction(3)], ids=repr)
def test_gradient_by_quadrature(objective, prior, monkeypatch):
    # vmap draws apart with randn, and not in place, as torch does here.
    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", standard_normal)
    vae = vae_with(prior)
    exact = exact_gradient(exact_elbo(vae, X).sum(), vae)
    Distribution.set_default_validate_args(False)
    assert largest_z(many_gradients(objective, vae, 20_000), exact) < Z_MAX


def test_frozen_reaches_parameters_under_all_their_names():
    vae = vae_with(PRIORS[2])
    z = vae(X).z[0].detach().requires_grad_()
    frozen(vae)(X, zs=[z]).log_pz.sum().backward()
    assert z.grad is not None
    assert all(parameter.grad is None for parameter in vae.parameters())
