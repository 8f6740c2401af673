"""The mixture of earthquakes: its updates, its bound, recovery of the truth, and its input."""

import pytest
import torch
from oracles import Z_MAX, largest_z
from torch.distributions import Categorical, Gamma, Normal, Poisson

from latentlab.classical.base import converge
from latentlab.classical.earthquakes import CAVIEarthquakes, Globals, elbo, responsibilities, update_globals
from latentlab.classical.sources import EarthquakeCatalogue, EarthquakeFile
from latentlab.errors import UserError

# Centres so far apart that the factorisation is exact.
APART = {"rho": 0.002, "alpha": 4.0, "beta": 0.4}


def fitted(size=300, seed=0, components=3, **arguments):
    source = EarthquakeCatalogue(size, num_components=components, seed=seed, **arguments)
    model = converge(CAVIEarthquakes(components, restarts=6, **arguments), source.x, 2000)
    return model, source


@pytest.mark.parametrize("seed", range(4))
def test_the_elbo_of_every_start_never_decreases(seed):
    model, _ = fitted(seed=seed, rho=0.2)  # centres close together: many iterations
    starts = [bounds for name, bounds in model.history.values.items() if name.startswith("elbo_start")]
    assert len(starts) == 6
    for bounds in starts:
        assert torch.tensor(bounds).double().diff().min() > -1e-9
    assert model.converged


def parameters(model):
    return [
        model.m,
        model.rho.log(),
        model.a.log(),
        model.b.log(),
        responsibilities(model.h, model.data, model.q()).log(),
    ]


def full_elbo(model, m, log_rho, log_a, log_b, logits):
    q = Globals(m, log_rho.exp(), log_a.exp(), log_b.exp())
    return elbo(model.h, model.data, q, logits.softmax(-1))


def test_the_fixed_point_zeroes_every_derivative_of_the_elbo():
    source = EarthquakeCatalogue(200, num_components=3, rho=0.2, seed=1)
    model = converge(CAVIEarthquakes(3, rho=0.2, restarts=3, tolerance=0.0), source.x, 3000)
    point = tuple(parameters(model))
    gradients = torch.func.grad(lambda *p: full_elbo(model, *p).sum(), argnums=tuple(range(5)))(*point)
    for gradient in gradients:
        assert gradient.abs().max() < 1e-6


def test_each_update_maximises_the_elbo_over_its_factor():
    source = EarthquakeCatalogue(50, num_components=3, rho=0.2)
    model = CAVIEarthquakes(3, rho=0.2, restarts=2)
    model.begin([source.x])
    r = torch.rand(2, 50, 3).double().softmax(-1)
    q = update_globals(model.h, source.x, r)
    point = q.m, q.rho.log(), q.a.log(), q.b.log(), r.log()
    gradients = torch.func.grad(lambda *p: full_elbo(model, *p).sum(), argnums=(0, 1, 2, 3))(*point)
    assert all(gradient.abs().max() < 1e-9 for gradient in gradients)


def test_the_bound_is_the_exact_evidence_with_one_component():
    """With one component q(mu) q(lambda) is the exact posterior."""
    model, source = fitted(size=7, components=1)
    places, strengths = source.x[:, :2], source.x[:, 2]
    n, h = len(places), model.h
    cov = torch.eye(n).double() / h.tau + torch.ones(n, n).double() / h.rho
    normal = torch.distributions.MultivariateNormal(torch.zeros(n).double(), cov)
    total = strengths.sum()
    poisson = (
        h.alpha * h.beta.log()
        - h.alpha.lgamma()
        + (h.alpha + total).lgamma()
        - (strengths + 1).lgamma().sum()
    )
    poisson = poisson - (h.alpha + total) * (h.beta + n).log()
    torch.testing.assert_close(model.elbo(), normal.log_prob(places.T).sum() + poisson)


def test_the_bound_has_all_its_terms():
    """Its value is the mean of log p - log q under q, with the densities of torch."""
    torch.manual_seed(0)
    x = EarthquakeCatalogue(30, num_components=3, rho=0.2).x
    weights = torch.tensor([0.2, 0.3, 0.5]).double()
    model = CAVIEarthquakes(3, 1.3, (0.3, -0.2), 0.2, 2.0, 0.4, weights.tolist(), restarts=1)
    shapes = (1, 3, 2), (1, 3), (1, 3), (1, 3)
    q = Globals(*(torch.rand(shape).double() * 4 + 1 for shape in shapes))
    r = torch.randn(1, 30, 3).double().softmax(-1)
    q_mu, q_lambda = Normal(q.m[0], q.rho[0, :, None] ** -0.5), Gamma(q.a[0], q.b[0])
    mu, rate, z = q_mu.sample((40_000,)), q_lambda.sample((40_000,)), Categorical(r[0]).sample((40_000,))
    log_q = (
        q_mu.log_prob(mu).sum((1, 2)) + q_lambda.log_prob(rate).sum(1) + Categorical(r[0]).log_prob(z).sum(1)
    )
    prior = Normal(torch.tensor([0.3, -0.2]).double(), 0.2**-0.5).log_prob(mu).sum((1, 2))
    prior = prior + Gamma(*torch.tensor([2.0, 0.4]).double()).log_prob(rate).sum(1) + weights.log()[z].sum(1)
    centre, strength = mu.gather(1, z[:, :, None].expand(-1, -1, 2)), rate.gather(1, z)
    places = Normal(centre, 1.3**-0.5).log_prob(x[:, :2]).sum((1, 2))
    log_p = prior + places + Poisson(strength).log_prob(x[:, 2]).sum(1)
    assert largest_z((log_p - log_q)[:, None], elbo(model.h, x, q, r)) < Z_MAX


def test_the_truth_is_recovered_within_the_posterior_error_over_seeds():
    centres, rates = [], []
    for seed in range(40):
        model, source = fitted(400, seed, **APART)
        q, truth = model.best(), source.truth
        if torch.nn.functional.pdist(truth["mu"]).min() < 8:  # overlapping clusters cannot be told apart
            continue
        order = torch.cdist(truth["mu"], q.m).argmin(1)
        centres.append((q.m[order] - truth["mu"]) * q.rho[order].sqrt()[:, None])
        rates.append(((q.a / q.b)[order] - truth["lambda"]) / (q.a.sqrt() / q.b)[order])
    assert len(centres) >= 30
    for errors in (torch.cat(centres).flatten(), torch.cat(rates)):
        # The data are drawn from the model, so standardised errors have mean 0 and variance 1.
        assert abs(errors.mean()) * len(errors) ** 0.5 < Z_MAX
        assert abs((errors**2).mean() - 1) < Z_MAX * (2 / len(errors)) ** 0.5
        assert errors.abs().max() < Z_MAX


def test_errors_match_clusters_and_count_assignments():
    model, source = fitted(400, 3, **APART)
    found = model.errors(source.truth)
    assert found["error/assigned_rightly"] > 0.99
    assert found["error/centre_in_sd"] < Z_MAX
    assert model.errors({"mu": torch.zeros(2, 2).double()}) == {}


def test_known_weights_are_used():
    model = CAVIEarthquakes(2, weights=(0.25, 0.75))
    torch.testing.assert_close(model.h.log_pi.exp(), torch.tensor([0.25, 0.75]).double())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tau": 0.0}, "tau=0.0 must be greater than 0"),
        ({"rho": -1.0}, "rho=-1.0"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"num_components": 0}, "num_components=0"),
        ({"nu": (0.0,)}, "two coordinates"),
        ({"weights": (0.5, 0.6, -0.1, 0.0)}, "weights="),
        ({"weights": (1.0,)}, "must be 4 positive numbers"),
    ],
)
def test_bad_hyperparameters_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        CAVIEarthquakes(**arguments)


def test_more_components_than_earthquakes_are_refused():
    with pytest.raises(UserError, match="num_components=4 is more than the 3 earthquakes"):
        CAVIEarthquakes(4).set_data([torch.zeros(3, 3).double()])


def write(path, text):
    path.write_text(text)
    return str(path)


def test_other_columns_of_a_file_are_ignored(tmp_path):
    source = EarthquakeFile(write(tmp_path / "a.csv", "when,strength,x, y\n1990,3,0.5,-1\n1991,0,2,1e1\n"))
    assert source.x.tolist() == [[0.5, -1.0, 3.0], [2.0, 10.0, 0.0]]
    assert source.truth == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,y\n1,2\n", "no column strength"),
        ("", "no column x, y, strength"),
        ("x,y,strength\n", "holds no earthquakes"),
        ("x,y,strength\n1,nan,2\n", "line 2: y=nan is not a finite number"),
        ("x,y,strength\n1,2,3\n1,,2\n", "line 3: y= is not a finite number"),
        ("x,y,strength\n1,two,2\n", "y=two is not"),
        ("x,y,strength\n1,2,-3\n", "strength=-3 is not a count"),
        ("x,y,strength\n1,2,2.5\n", "strength=2.5 is not a count"),
        ("x,y,strength\n1,2\n", "strength=None"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(UserError, match=words) as caught:
        EarthquakeFile(write(tmp_path / "a.csv", text))
    assert "\n" not in str(caught.value)


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"x,y,strength,where\n1,2,3,caf\xe9\n")
    with pytest.raises(UserError, match=r"a\.csv is not a CSV file in UTF-8"):
        EarthquakeFile(str(path))


def test_a_missing_file_is_refused():
    with pytest.raises(UserError, match=r"nowhere\.csv: no such file"):
        EarthquakeFile("nowhere.csv")
