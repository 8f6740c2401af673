"""Probabilistic PCA: the closed form, EM, scikit-learn and the bound of a linear VAE agree."""

import pytest
import torch
from sklearn.decomposition import PCA

from latentlab.classical.base import converge
from latentlab.classical.ppca import PPCA, closed_form, em_step, log_likelihood, moments
from latentlab.errors import UserError
from latentlab.protocols import Continuous, Threshold

N, D, Q = 200, 8, 3


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    scales = torch.linspace(3, 0.5, D).double()
    mixing = torch.randn(D, D, generator=generator).double()
    return torch.randn(N, D, generator=generator).double() * scales @ mixing + 5


def fitted(x, em=False, q=Q, **arguments):
    return converge(PPCA(q, em=em, x_shape=(D,), **arguments), x, 20_000)


def test_em_is_monotone_and_reaches_the_closed_form(x):
    model = fitted(x, em=True, tolerance=1e-13)
    bounds = torch.tensor(model.history.values["elbo"], dtype=torch.float64)
    assert bounds.diff().min() > -1e-9
    torch.testing.assert_close(model.elbo(), model.exact_log_likelihood(), atol=1e-9, rtol=0)
    w, noise = model.optimum
    torch.testing.assert_close(model.w @ model.w.T, w @ w.T, rtol=0, atol=1e-3)
    torch.testing.assert_close(model.noise, noise, rtol=1e-5, atol=0)


def test_the_closed_form_is_a_fixed_point_of_em_and_of_the_likelihood(x):
    _, cov, _ = moments([x])
    w, noise = closed_form(cov, Q)
    torch.testing.assert_close(em_step(cov, w, noise), (w, noise))
    gradients = torch.func.grad(lambda w, noise: log_likelihood(cov, w, noise), argnums=(0, 1))(w, noise)
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-10


def test_the_likelihood_is_that_of_the_full_normal(x):
    model = fitted(x)
    cov = model.w @ model.w.T + model.noise * torch.eye(D).double()
    normal = torch.distributions.MultivariateNormal(model.b, cov)
    torch.testing.assert_close(model.terms(x)["elbo"], normal.log_prob(x))
    torch.testing.assert_close(model.elbo(), normal.log_prob(x).mean())


def test_scikit_learn_divides_by_n_minus_one(x):
    """`PCA.score` is the likelihood under the unbiased covariance, slightly below the maximum."""
    _, cov, _ = moments([x])
    pca = PCA(Q).fit(x.numpy())
    theirs = pca.score(x.numpy())
    unbiased = closed_form(cov * N / (N - 1), Q)
    assert theirs == pytest.approx(float(log_likelihood(cov, *unbiased)), rel=1e-12)
    assert pca.noise_variance_ == pytest.approx(float(unbiased[1]), rel=1e-10)
    ours = float(log_likelihood(cov, *closed_form(cov, Q)))
    # tr(C^-1 S) = D (n - 1) / n instead of D, and log|C| is larger by D log(n / (n - 1)).
    ratio = torch.tensor(N / (N - 1), dtype=torch.float64)
    assert ours - theirs == pytest.approx(float(0.5 * D * (ratio.log() + 1 / ratio - 1)), rel=1e-6)
    assert theirs < ours


def linear_vae_elbo(x, w, b, noise, v, variances):
    r"""The bound of a linear VAE, q(z|x) = N(V (x - b), diag(variances)), in closed form."""
    mean = (x - b) @ v.T
    residual = ((x - b - mean @ w.T) ** 2).sum(-1) + ((w**2).sum(0) * variances).sum()
    log_px = -0.5 * (x.shape[1] * (2 * torch.pi * noise).log() + residual / noise)
    kl = 0.5 * ((mean**2).sum(-1) + variances.sum() - variances.log().sum() - w.shape[1])
    return (log_px - kl).mean()


def test_it_is_the_optimum_of_the_linear_vae(x):
    """At W = U (L - s^2)^(1/2) the posterior is diagonal, so the bound is tight and stationary."""
    model = fitted(x)
    posterior = model.posterior(x)
    v = torch.linalg.solve(model.w.T @ model.w + model.noise * torch.eye(Q).double(), model.w.T)
    variances = posterior.covariance_matrix[0].diagonal()
    parts = model.w, model.b, model.noise, v, variances
    torch.testing.assert_close(linear_vae_elbo(x, *parts), model.exact_log_likelihood())
    gradients = torch.func.grad(lambda *p: linear_vae_elbo(x, *p), argnums=tuple(range(5)))(*parts)
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-9


def test_every_weight_of_the_trace_is_the_likelihood(x):
    model = fitted(x)
    trace, terms = model(x, samples=3), model.terms(x)
    torch.testing.assert_close(trace.log_w, terms["elbo"].expand(3, -1))
    torch.testing.assert_close(terms["kl"], trace.layers[0].kl()[0])
    prior = torch.distributions.MultivariateNormal(torch.zeros(Q).double(), torch.eye(Q).double())
    torch.testing.assert_close(terms["kl"], torch.distributions.kl_divergence(model.posterior(x), prior))
    torch.testing.assert_close(terms["reconstruction"] - terms["kl"], terms["elbo"])


def test_samples_have_the_model_s_mean_and_covariance(x):
    model = fitted(x)
    drawn = model.generate(100_000).double()
    cov = model.w @ model.w.T + model.noise * torch.eye(D).double()
    torch.testing.assert_close(drawn.mean(0), model.b, atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), cov, atol=0.03 * float(cov.max()), rtol=0)


def test_moments_do_not_depend_on_batches(x):
    whole, parts = moments([x]), moments(x.split(17))
    torch.testing.assert_close(whole[:2], parts[:2])
    assert whole[2] == parts[2] == N
    torch.testing.assert_close(whole[1], x.T.cov(correction=0))


def test_pixels_may_be_constant(x):
    flat = torch.cat([x, torch.ones(N, 2).double()], dim=1)
    model = converge(PPCA(Q, x_shape=(D + 2,)), flat, 10)
    assert model.elbo().isfinite()


def test_bad_input_is_refused(x):
    with pytest.raises(UserError, match="latent_dim=8 must be less than the 8 pixels"):
        PPCA(8, x_shape=(8,))
    with pytest.raises(UserError, match="latent_dim=3 must be less than 2, the rank"):
        fitted(x[:3])
    with pytest.raises(UserError, match="protocol=threshold gives discrete values"):
        PPCA().check(Threshold())
    PPCA().check(Continuous())
