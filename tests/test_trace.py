"""Traces and bounds of the real VAE against quadrature."""

import pytest
import torch
from oracles import Z_MAX, all_binary_images, exact_elbo, exact_log_likelihood, largest_z, tiny_vae
from torch.distributions import Categorical, Independent, Laplace, MixtureSameFamily, Normal, kl_divergence

from latentlab.objectives import ELBO, AnalyticELBO
from latentlab.trace import Layer

X = all_binary_images((1, 2, 2))[[1, 6, 11]]
OBJECTIVES = [ELBO, AnalyticELBO]


def test_shapes_for_any_number_of_samples():
    vae = tiny_vae(latent_dim=3)
    for samples in (1, 5):
        trace = vae(X, samples=samples)
        assert [tuple(z.shape) for z in trace.z] == [(samples, 3, 3)]
        for score in (trace.log_px_z, trace.log_pz, trace.log_qz_x, trace.log_w, trace.layers[0].kl()):
            assert score.shape == (samples, 3)


def test_given_latents_are_scored_as_drawn_ones():
    vae = tiny_vae(latent_dim=3)
    drawn = vae(X, samples=4)
    scored = vae(X, samples=4, zs=drawn.z)
    torch.testing.assert_close(scored.log_w, drawn.log_w, rtol=0, atol=0)


def test_log_w_is_made_of_the_densities():
    vae = tiny_vae(latent_dim=2)
    trace = vae(X, samples=2)
    q = vae.posterior(X).base_dist
    z = trace.z[0]
    log_q = (
        -0.5 * ((z - q.loc) / q.scale) ** 2 - q.scale.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))
    ).sum(-1)
    log_p = (-0.5 * z**2 - 0.5 * torch.log(torch.tensor(2 * torch.pi))).sum(-1)
    logits = vae.likelihood(z).base_dist.logits
    log_px = (X * logits - torch.nn.functional.softplus(logits)).sum((-3, -2, -1))
    torch.testing.assert_close(trace.log_w, log_px + log_p - log_q)


def test_terms_add_up():
    terms = tiny_vae(latent_dim=2)(X, samples=3).terms()
    torch.testing.assert_close(terms["elbo"], terms["reconstruction"] - terms["kl"])
    torch.testing.assert_close(terms["kl"], terms["kl_1"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_value_against_quadrature(objective):
    vae = tiny_vae()
    with torch.no_grad():
        estimates = objective(samples=2)(vae, X.repeat(4000, 1, 1, 1)).view(4000, 3)
        assert largest_z(estimates, exact_elbo(vae, X)) < Z_MAX


def test_elbo_is_below_log_likelihood():
    vae = tiny_vae()
    assert (exact_elbo(vae, X) < exact_log_likelihood(vae, X)).all()


def test_every_parameter_gets_a_gradient():
    vae = tiny_vae(latent_dim=3)
    AnalyticELBO()(vae, X).sum().backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_gradients_of_the_densities_do_not_depend_on_an_earlier_read_without_gradients(without):
    def gradients(read_first):
        torch.manual_seed(0)
        vae = tiny_vae(latent_dim=3)
        trace = vae(X, samples=4)
        if read_first:
            with without():
                assert not trace.log_w.requires_grad
        trace.log_w.logsumexp(0).sum().backward()
        return [parameter.grad for parameter in vae.parameters()]

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_trace_without_gradients_has_none_later():
    with torch.no_grad():
        trace = tiny_vae(latent_dim=3)(X)
    assert not trace.log_w.requires_grad


def normal(loc, scale):
    return Independent(Normal(torch.tensor(loc).double(), torch.tensor(scale).double()), 1)


def test_kl_in_closed_form_and_by_q_entropy_agree_with_log_ratio():
    q = normal([[0.5, -1.0], [0.0, 2.0]], [[0.7, 1.2], [0.4, 0.9]])
    p = normal([0.0, 0.3], [1.0, 1.5])
    # The density p as a mixture, whose KL has no closed form.
    mixture = MixtureSameFamily(Categorical(torch.ones(1).double()), normal([[0.0, 0.3]], [[1.0, 1.5]]))
    z = q.sample((20_000,))
    exact = kl_divergence(q, p)
    torch.testing.assert_close(Layer.scored(z, q, p).kl(), exact.expand(20_000, 2))
    by_entropy = Layer.scored(z, q, mixture)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, mixture)
    assert largest_z(by_entropy.kl(), exact) < Z_MAX
    assert largest_z(by_entropy.log_q - by_entropy.log_p, exact) < Z_MAX
    # The estimate with the exact entropy is not the log ratio.
    assert not torch.allclose(by_entropy.kl(), by_entropy.log_q - by_entropy.log_p)


def test_kl_falls_back_to_the_log_ratio():
    p = Independent(Laplace(torch.zeros(2).double(), torch.ones(2).double()), 1)
    q = MixtureSameFamily(Categorical(torch.ones(1, 1).double()), normal([[[0.0, 0.3]]], [[[1.0, 1.5]]]))
    layer = Layer.scored(q.sample((5,)), q, p)
    torch.testing.assert_close(layer.kl(), layer.log_q - layer.log_p)
