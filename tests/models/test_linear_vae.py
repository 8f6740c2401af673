"""The linear VAE against the closed form of probabilistic PCA."""

import math

import pytest
import torch
from hydra.utils import instantiate
from parts import composed, digits
from torch.nn.functional import avg_pool2d


def closed_form(x, q):
    """W, noise, mean and log-likelihood of Tipping and Bishop (1999, eq. 7 and 8), in float64."""
    flat = x.flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T, correction=0))
    noise, d = values[:-q].mean(), len(values)
    w = vectors[:, -q:] * (values[-q:] - noise).sqrt()
    log_det = values[-q:].log().sum() + (d - q) * noise.log()
    return w, noise, flat.mean(0), -0.5 * (d * math.log(2 * math.pi) + log_det + d)


def linear_vae(q, x, *overrides):
    options = (
        f"model.latent_dim={q}",
        "data=continuous_digits",
        "likelihood.initialise_bias=true",
        *overrides,
    )
    model = instantiate(composed("model=linear_vae", *options).module).double().model
    model.initialise(x)
    return model


def exact_bound(model, x, q):
    """The exact ELBO: 2q points integrate a quadratic function of z exactly."""
    points = math.sqrt(q) * torch.cat([torch.eye(q), -torch.eye(q)]).double()
    normal = model.posterior(x).base_dist
    trace = model(x, zs=[normal.loc + normal.scale * points[:, None]])
    return trace.terms()["elbo"].mean()


@pytest.mark.parametrize("q", [2, 10])
def test_at_the_optimum_of_ppca_the_bound_is_its_log_likelihood(q):
    x = digits()[0][:400].double() / 255
    w, noise, mean, log_likelihood = closed_form(x, q)
    model = linear_vae(q, x)
    encoder, decoder = model.posterior.network.layers[0], model.likelihood.network.layers[0]
    m = w.T @ w + noise * torch.eye(q)
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.copy_(mean - model.likelihood.offset.flatten())
        encoder.weight.zero_()[:q].copy_(torch.linalg.solve(m, w.T))
        encoder.bias[:q].copy_(-encoder.weight[:q] @ mean)
        encoder.bias[q:].copy_((noise / m.diagonal()).log() / 2)
        model.likelihood.log_variance.copy_((noise - model.likelihood.min_scale**2).log())
        assert exact_bound(model, x, q).item() == pytest.approx(log_likelihood.item(), abs=1e-8)


def test_trained_to_convergence_it_reaches_ppca():
    q, x = 2, avg_pool2d(digits()[0][:300].double() / 255, 4)
    model = linear_vae(q, x, "+model.x_shape=[1,7,7]")
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=300,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_change=1e-12,
    )

    def loss():
        optimizer.zero_grad()
        value = -exact_bound(model, x, q)
        value.backward()
        return value

    optimizer.step(loss)
    *_, log_likelihood = closed_form(x, q)
    gap = log_likelihood - exact_bound(model, x, q)
    assert 0 <= gap.item() < 0.005
    # The reported bound is a Monte Carlo estimate.
    with torch.no_grad():
        reported = torch.stack([model.terms(x, samples=100)["elbo"].mean() for _ in range(10)])
    assert reported.mean().item() == pytest.approx(log_likelihood.item(), abs=0.05)
