"""Mixtures of normal distributions: against scikit-learn, quadrature and each other."""

import pytest
import torch
from commands import call, refusal
from runs import summary
from sklearn import mixture
from torch.distributions import Dirichlet, MultivariateNormal, Wishart

from latentlab.classical.base import converge
from latentlab.classical.mixture import CAVIMixture, EMMixture, SVIMixture, wishart_kl
from latentlab.classical.sources import Clusters, PointFile
from latentlab.errors import UserError

SOURCE = Clusters(size=200, num_components=3, spread=1.5, seed=2)


def fitted(kind, iterations=200, **options):
    torch.manual_seed(0)
    return converge(kind(3, tolerance=0, **options), SOURCE.x, iterations)


@pytest.mark.parametrize("kind", [EMMixture, CAVIMixture])
def test_the_bound_never_falls(kind):
    bounds = torch.tensor(fitted(kind, 40).history.values["elbo"], dtype=torch.float64)
    assert (bounds.diff() > -1e-7 * bounds[-1].abs()).all()  # EM adds a billionth of the variance
    assert bounds[-1] >= bounds[0]


def test_em_finds_the_likelihood_of_scikit_learn():
    model = fitted(EMMixture)
    start = fitted(EMMixture, 0)
    weights, means, covariances = (value.numpy() for value in start.parameters_of_components)
    inverses = torch.linalg.inv(torch.from_numpy(covariances)).numpy()
    theirs = mixture.GaussianMixture(
        3,
        weights_init=weights,
        means_init=means,
        precisions_init=inverses,
        tol=1e-12,
        max_iter=500,
        reg_covar=0,
    ).fit(SOURCE.x.numpy())
    assert model.elbo().item() == pytest.approx(200 * theirs.score(SOURCE.x.numpy()), rel=1e-8)


def test_coordinate_ascent_finds_the_means_of_scikit_learn():
    model = fitted(CAVIMixture, 400, alpha=1.0, beta=0.5, nu=4.0)
    theirs = mixture.BayesianGaussianMixture(
        n_components=3,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=1.0,
        mean_precision_prior=0.5,
        degrees_of_freedom_prior=4.0,
        covariance_prior=4.0 * SOURCE.x.T.cov().numpy(),
        tol=1e-12,
        max_iter=2000,
        reg_covar=0,
        random_state=0,
    ).fit(SOURCE.x.numpy())
    order = torch.from_numpy(theirs.means_)[:, 0].argsort()
    mine = model.q().m[:, 0].argsort()
    assert torch.allclose(model.q().m[mine], torch.from_numpy(theirs.means_)[order], atol=1e-4)
    assert torch.allclose(
        model.q().alpha[mine], torch.from_numpy(theirs.weight_concentration_)[order], rtol=1e-4
    )


def wisharts(nu, w, n):
    """Draws of W(w, nu) by Bartlett's decomposition, (n, K, 2, 2). torch replaces draws that it takes for singular."""
    root = torch.zeros(n, *w.shape, dtype=torch.float64)
    for i in range(2):
        root[..., i, i] = torch.distributions.Chi2(nu - i).sample((n,)).sqrt()
    root[..., 1, 0] = torch.randn(n, len(w), dtype=torch.float64)
    root = torch.linalg.cholesky(w) @ root
    return root @ root.mT


def test_the_bound_is_the_mean_of_its_integrand():
    model = fitted(CAVIMixture, 5)
    q, n = model.q(), 20_000
    torch.manual_seed(1)
    log_pi = Dirichlet(q.alpha).sample((n,)).log()
    precisions = wisharts(q.nu, q.w, n)
    means = MultivariateNormal(q.m, precision_matrix=q.beta[:, None, None] * precisions).sample()
    r = model.responsibilities(model.x)
    prior_w = Wishart(torch.tensor(model.nu).double(), torch.linalg.inv(model.w0_inverse))
    prior_m = MultivariateNormal(model.m0, precision_matrix=model.beta * precisions)
    log_p = Dirichlet(torch.full_like(q.alpha, model.alpha)).log_prob(log_pi.exp())
    log_p = log_p + (prior_w.log_prob(precisions) + prior_m.log_prob(means)).sum(1)
    log_q = Dirichlet(q.alpha).log_prob(log_pi.exp()) + Wishart(q.nu, q.w).log_prob(precisions).sum(1)
    log_q = log_q + MultivariateNormal(q.m, precision_matrix=q.beta[:, None, None] * precisions).log_prob(
        means
    ).sum(1)
    scores = torch.stack(
        [MultivariateNormal(means, precision_matrix=precisions).log_prob(x) for x in model.x], 1
    )
    assigned = (r * (log_pi[:, None] + scores)).sum((1, 2)) - torch.xlogy(r, r).sum()
    draws = assigned + log_p - log_q
    z = (draws.mean() - model.elbo()) / (draws.std() / n**0.5)
    assert abs(z) < 4  # fails with probability 6e-5


def test_the_divergence_of_wisharts_is_zero_for_equal_ones():
    w = torch.tensor([[[2.0, 0.3], [0.3, 1.0]]], dtype=torch.float64)
    nu = torch.tensor([5.0], dtype=torch.float64)
    assert wishart_kl(nu, w, nu, torch.linalg.inv(w[0])).item() == pytest.approx(0, abs=1e-12)


def test_a_full_batch_with_step_one_is_coordinate_ascent():
    ascent, stochastic = (
        fitted(CAVIMixture, 3),
        fitted(SVIMixture, 0, batch_size=200, delay=0, forgetting=1.0),
    )
    stochastic.keep((ascent.n, ascent.sx, ascent.sxx))
    ascent.iterate()
    stochastic.iterate()
    assert all(map(torch.allclose, ascent.q(), stochastic.q()))


def test_stochastic_steps_reach_the_bound_of_coordinate_ascent():
    assert fitted(SVIMixture, 60, batch_size=50).elbo() > 1.002 * fitted(CAVIMixture).elbo()  # negative


@pytest.mark.parametrize("model", ["em_mixture", "cavi_mixture", "svi_mixture"])
def test_a_file_of_points_is_fitted_by_the_command_line(model, tmp_path):
    rows = "\n".join(f"{x},{y},{x * y}" for x, y, _ in torch.randn(30, 3).tolist())
    (tmp_path / "points.csv").write_text(f"a,b,c\n{rows}\n")
    words = [
        "data=points_csv",
        f"data.source.path={tmp_path}/points.csv",
        "model.columns=3",
        "model.num_components=2",
    ]
    run = tmp_path / "run"
    done = call(
        "train.py", f"model={model}", *words, "logger=none", "trainer.max_epochs=1", f"hydra.run.dir={run}"
    )
    assert done.status == 0, done.err
    assert "train/elbo" in summary(run) and (run / "figures" / "clusters.png").is_file()


@pytest.mark.parametrize(
    ("text", "named"),
    [("1,2\n3", "different"), ("1,2\n3,x", "line 2"), ("a,b", "no points"), ("1,nan1", "nan1")],
)
def test_wrong_points_are_one_line(tmp_path, text, named):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(UserError, match=named):
        PointFile(str(tmp_path / "points.csv"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model.num_components=0"], "num_components"),
        (["model.nu=0.5"], "nu"),
        (["data=normal_draws"], "columns"),
    ],
)
def test_what_a_mixture_cannot_fit_is_one_line(tmp_path, words, named):
    done = call("train.py", "model=cavi_mixture", *words, "logger=none", f"hydra.run.dir={tmp_path}/run")
    assert named in refusal(done)
