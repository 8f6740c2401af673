"""The ladder VAE: with one layer it is the VAE, and a linear normal one has its likelihood in closed form."""

from functools import partial
from itertools import pairwise
from math import log

import pytest
import torch
from oracles import Z_MAX, gauss_hermite, largest_z, tiny_vae
from parts import untrained
from torch.distributions import MultivariateNormal, Normal
from zuko.flows import RealNVP

from latentlab.errors import UserError
from latentlab.likelihoods import BernoulliLikelihood, GaussianFixedLikelihood
from latentlab.models import ladder
from latentlab.models.ladder import LadderVAE
from latentlab.nn.conv_ladder import ConvHead, ConvRungs
from latentlab.nn.ladder import DenseRungs
from latentlab.nn.layers import GroupNorm
from latentlab.nn.mlp import MLP, Linear
from latentlab.objectives import ELBO, IWAE, STL, VIMCO, AnalyticELBO, BetaELBO, DReG, ScoreFunction
from latentlab.posteriors import DiagonalNormalPosterior, FullRankNormalPosterior, GumbelSoftmaxPosterior
from latentlab.priors import FlowPrior, MixtureOfGaussiansPrior, StandardNormalPrior, VampPrior

X_SHAPE = (1, 2, 2)
PRIORS = {
    "standard_normal": StandardNormalPrior,
    "mog": partial(MixtureOfGaussiansPrior, num_components=3),
    "vamp": partial(VampPrior, num_components=4),
    "flow": partial(FlowPrior, flow=partial(RealNVP, transforms=2, hidden_features=[8])),
}
OBJECTIVES = [
    ELBO(2), AnalyticELBO(), STL(2), IWAE(3), DReG(3), BetaELBO(beta=0.5), ScoreFunction(3), VIMCO(3),
]  # fmt: skip


def dense(latent_dims=(2, 2, 2), x_shape=X_SHAPE, **parts):
    """A small fully connected ladder in float64, with smooth networks."""
    rungs = partial(DenseRungs, latent_dims=latent_dims, widths=(8,) * len(latent_dims), depth=1)
    defaults = {
        "rungs": partial(rungs, activation=torch.nn.Tanh),
        "decoder": partial(MLP, hidden=(8,), activation=torch.nn.Tanh),
        "posterior": DiagonalNormalPosterior,
        "likelihood": BernoulliLikelihood,
        "prior": StandardNormalPrior,
    }
    return LadderVAE(x_shape=x_shape, **(defaults | parts)).double()


def conv(layers=(1, 1, 1), x_shape=(1, 28, 28), **options):
    """A small convolutional ladder."""
    rungs = partial(ConvRungs, layers=layers, latent_channels=2, width=8, **options)
    parts = {"posterior": DiagonalNormalPosterior, "likelihood": BernoulliLikelihood}
    return LadderVAE(rungs, ConvHead, prior=StandardNormalPrior, x_shape=x_shape, **parts)


def images(n, x_shape=X_SHAPE, dtype=torch.float64):
    return torch.bernoulli(torch.full((n, *x_shape), 0.4)).to(dtype)


# -- One layer


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("posterior", [DiagonalNormalPosterior, FullRankNormalPosterior])
def test_a_ladder_with_one_layer_is_the_vae(prior, posterior):
    vae = tiny_vae(2, X_SHAPE, prior=PRIORS[prior], posterior=posterior)
    one = dense((2,), prior=PRIORS[prior], posterior=posterior)
    with torch.no_grad():
        for mine, its in zip(one.parameters(), vae.parameters(), strict=True):
            mine.copy_(its)
    x, found = images(5), []
    for model in (vae, one):
        torch.manual_seed(1)
        terms = model.terms(x, samples=3)
        gradients = torch.autograd.grad(terms["elbo"].sum(), list(model.parameters()))
        torch.manual_seed(2)
        found.append([terms, gradients, model.posterior_mean(x), model.encode(x), model.generate(4)])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


# -- The scores


def test_q_is_the_product_of_p_and_what_the_image_says():
    model, x, z_2 = dense((3, 2)), images(1), torch.randn(4, 1, 2).double()
    [rung] = model.rungs
    d = model.posterior.bottom_up(x)[0]
    q, p = rung(d, z_2)
    mean, raw = rung.evidence(d, z_2).unbind(-2)
    term = Normal(mean, 0.01 + torch.nn.functional.softplus(raw + ladder.UNIT))
    z = torch.randn(50, 4, 1, 3).double()
    rest = q.log_prob(z) - p.log_prob(z) - term.log_prob(z).sum(-1)
    torch.testing.assert_close(rest, rest[:1].expand_as(rest))


@pytest.mark.parametrize("make", [dense, partial(conv, x_shape=(1, 4, 4))], ids=["dense", "conv"])
def test_each_layers_kl_is_the_mean_of_its_log_ratio(make):
    model = make().double()
    x = images(1, model.x_shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # so that p(z_l|z_>l) is not N(0, I)
        trace = model(x, samples=5_000)
    for layer in trace.layers:
        assert not layer.coupled
        assert largest_z(layer.kl() - (layer.log_q - layer.log_p), torch.tensor(0.0)) < Z_MAX
    terms = trace.terms()
    assert [name for name in terms if name.startswith("kl_")] == ["kl_1", "kl_2", "kl_3"]
    # Both forms of the bound have the same mean.
    analytic = trace.log_px_z - torch.stack([layer.kl() for layer in trace.layers]).sum(0)
    assert analytic.mean() == pytest.approx(terms["elbo"].item())
    assert largest_z(analytic - trace.log_w, torch.tensor(0.0)) < Z_MAX


def test_given_latents_are_scored_as_drawn():
    model, x = dense(), images(3)
    trace = model(x, samples=4)
    again = model(x, samples=4, zs=trace.z)
    torch.testing.assert_close(again.log_w, trace.log_w)
    assert [z.shape for z in trace.z] == [(4, 3, 2)] * 3
    assert trace.px.batch_shape == (4, 3)


# -- Linear and normal


class LinearLadder:
    """A ladder of affine maps and fixed scales, and its joint distribution as a generative model."""

    def __init__(self, latent_dims=(3, 2, 2), variance=0.3):
        rungs = partial(
            DenseRungs, latent_dims=latent_dims, widths=(8,) * 3, depth=1, activation=torch.nn.Identity
        )
        likelihood = partial(GaussianFixedLikelihood, variance=variance)
        self.model = dense(rungs=rungs, decoder=Linear, likelihood=likelihood)
        with torch.no_grad():
            for rung, size in zip(self.model.rungs, latent_dims, strict=False):
                rung.expectation.layers[-1].weight[size:] = 0  # of the scale
        self.variance = variance

    def fit_inference(self, x, steps=200):
        """Fit q, so that the weights have a small variance. p stays."""
        image_side = [self.model.posterior, *(rung.evidence for rung in self.model.rungs)]
        parameters = [parameter for part in image_side for parameter in part.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=0.03)
        for _ in range(steps):
            optimizer.zero_grad()
            (-STL(4)(self.model, x).mean()).backward()
            optimizer.step()

    def prior_moments(self):
        """The means and covariances of z_1, ..., z_L and, last, of x."""
        top = self.model.z_shapes[-1]
        moments = [(torch.zeros(top).double(), torch.eye(*top).double())]
        for rung in reversed(self.model.rungs):
            moments.append(pushed(*moments[-1], lambda z, rung=rung: rung.p(z).mean))
            moments[-1][1].diagonal().add_(rung.p(moments[0][0]).variance)
        zs = moments[::-1]
        mean, covariance = pushed(*zs[0], lambda z: self.model.likelihood(z).mean.flatten(-3))
        return [*zs, (mean, covariance + self.variance * torch.eye(len(mean)))]

    def log_likelihood(self, x):
        return MultivariateNormal(*self.prior_moments()[-1]).log_prob(x.flatten(1))


@torch.no_grad()
def pushed(mean, covariance, affine):
    """The mean and covariance of an affine map of z."""
    matrix = affine(torch.eye(len(mean)).double()) - affine(torch.zeros_like(mean))
    return affine(mean), matrix.mT @ covariance @ matrix


def test_the_bound_is_below_the_exact_likelihood_which_its_weights_estimate():
    linear, x = LinearLadder(), torch.randn(2, *X_SHAPE).double()
    linear.fit_inference(x)
    exact = linear.log_likelihood(x)
    with torch.no_grad():
        trace = linear.model(x, samples=40_000)
    assert largest_z((trace.log_w - exact).exp(), torch.tensor(1.0)) < Z_MAX
    assert (trace.terms()["elbo"] < exact - 0.01).all()
    torch.testing.assert_close(trace.log_w.logsumexp(0) - log(40_000), exact, atol=0.05, rtol=0)


def test_ancestral_draws_have_the_moments_of_the_model():
    linear = LinearLadder()
    torch.manual_seed(4)
    zs = linear.model.descend(40_000)
    for z, (mean, covariance) in zip(zs, linear.prior_moments(), strict=False):
        centred = z - mean
        assert largest_z(centred, torch.zeros(1)) < Z_MAX
        assert largest_z(centred[:, :, None] * centred[:, None], covariance) < Z_MAX


# -- Gradients


def exact_elbo(model, x, monkeypatch):
    """The ELBO of a ladder of two layers of one latent each, by quadrature over q, (B,), differentiable."""
    nodes, weights = gauss_hermite(40)
    grid = torch.cartesian_prod(nodes, nodes)  # (K, 2)
    noises = iter([grid[:, 0, None, None], grid[:, 1, None, None]])

    def at_nodes(q, samples=None):
        return q.base_dist.loc + q.base_dist.scale * next(noises)

    with monkeypatch.context() as patch:
        patch.setattr(ladder, "draw", at_nodes)
        log_w = model(x, samples=len(grid)).log_w
    return (torch.cartesian_prod(weights, weights).prod(-1)[:, None] * log_w).sum(0)


def gradient(bound, model):
    parts = torch.autograd.grad(bound, list(model.parameters()), materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def estimated(objective, model, x, n=100, batch=100):
    """n means of `batch` draws of the bound at a single x, and of its gradient."""
    found = []
    for _ in range(n):
        bound = objective(model, x.expand(batch, -1, -1, -1)).mean()
        found.append((bound.detach(), gradient(bound, model)))
    values, gradients = zip(*found, strict=True)
    return torch.stack(values), torch.stack(gradients)


@pytest.mark.parametrize("objective", [ELBO(), AnalyticELBO(), STL(), ScoreFunction(3), DReG(1)], ids=repr)
def test_value_and_gradient_of_the_elbo_are_exact(objective, monkeypatch):
    torch.manual_seed(5)
    model, x = dense((1, 1)), images(1)
    exact = exact_elbo(model, x, monkeypatch).sum()
    values, gradients = estimated(objective, model, x)
    assert largest_z(values, exact) < Z_MAX
    assert largest_z(gradients, gradient(exact, model)) < Z_MAX


@pytest.fixture(scope="module")
def iwae():
    """A ladder, an image, and estimates of its IWAE bound and gradient."""
    torch.manual_seed(6)
    model, x = dense((1, 1, 1)), images(1)
    return model, x, *estimated(IWAE(3), model, x)


@pytest.mark.parametrize("objective", [DReG(3), VIMCO(3)], ids=repr)
def test_estimators_of_the_iwae_gradient_agree(objective, iwae):
    model, x, plain_values, plain_gradients = iwae
    torch.manual_seed(7)
    values, gradients = estimated(objective, model, x)
    assert largest_z(values - plain_values, torch.tensor(0.0)) < Z_MAX
    assert largest_z(gradients - plain_gradients, torch.tensor(0.0)) < Z_MAX


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("make", [dense, partial(conv, x_shape=(1, 8, 8))], ids=["dense", "conv"])
def test_every_parameter_has_a_gradient(make, objective):
    model = make()
    dtype = next(model.parameters()).dtype
    objective.check(model)
    objective(model, images(6, model.x_shape, dtype)).mean().backward()
    assert untrained({name: p.grad for name, p in model.named_parameters()}) == []


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_is_trained_on_top(prior):
    torch.manual_seed(0)
    model, x = dense(prior=PRIORS[prior]), images(6)
    model.initialise(x)
    DReG(3)(model, x).mean().backward()
    assert untrained({name: p.grad for name, p in model.named_parameters()}) == []
    assert model.generate(3).shape == (3, *X_SHAPE)


@pytest.mark.parametrize("make", [dense, partial(conv, x_shape=(1, 8, 8))], ids=["dense", "conv"])
def test_the_inference_parameters_are_those_that_q_depends_on(make):
    model = make()
    model(images(4, model.x_shape, next(model.parameters()).dtype)).log_qz_x.sum().backward()
    own = {id(parameter) for parameter in model.inference_parameters()}
    assert {id(p) for p in model.parameters() if p.grad is not None} == own


def test_free_bits_are_for_each_layer():
    model, x = dense(), images(20)

    def of(bound):
        torch.manual_seed(7)
        return gradient(bound().sum(), model)

    kls = [model.terms(x)[f"kl_{layer}"].mean().item() for layer in (1, 2, 3)]
    free = sorted(kls)[1] + 1e-9  # the KL of one layer is above it, of two below

    def by_hand():
        terms = model.terms(x)
        means = [terms[f"kl_{layer}"].mean() for layer in (1, 2, 3)]
        return terms["reconstruction"] - sum(kl if kl > free else free for kl in means)

    assert sum(kl > free for kl in kls) == 1
    torch.testing.assert_close(of(lambda: BetaELBO(free_bits=free)(model, x)), of(by_hand))
    torch.testing.assert_close(
        of(lambda: BetaELBO(free_bits=1e3)(model, x)), of(lambda: BetaELBO(beta=0)(model, x))
    )


# -- Both forms


@pytest.mark.parametrize(
    ("layers", "sizes"), [((1, 1, 1), (28, 14, 7)), ((0, 1, 2), (14, 7, 7)), ((2, 0, 1), (28, 28, 7)),
                          ((0, 0, 1, 1, 1), (7, 4, 2)), ((1,), (28,))]
)  # fmt: skip
def test_shapes_of_the_convolutional_form(layers, sizes):
    model, x = conv(layers), images(3, (1, 28, 28), torch.float32)
    shapes = [(2, size, size) for size in sizes]
    shapes[-1] = (2 * sizes[-1] ** 2,)
    assert list(model.z_shapes) == shapes
    with torch.no_grad():
        trace = model(x, samples=2)
        assert [z.shape for z in trace.z] == [(2, 3, *shape) for shape in shapes]
        assert trace.log_w.shape == (2, 3) and trace.log_w.isfinite().all()
        assert model.generate(2).shape == (2, 1, 28, 28)
        codes = model.encode(x)
        assert codes.shape == model.posterior_mean(x).shape == (3, model.latent_dim)
        means = model.posterior_means(x)
        torch.testing.assert_close(model.decode(model.posterior_mean(x)), model.px(means).mean)


@pytest.mark.parametrize("make", [dense, partial(conv, normalisation=partial(GroupNorm, groups=2))])
def test_an_example_does_not_see_the_others_of_its_batch(make):
    model = make().double()
    x = images(5, model.x_shape)
    with torch.no_grad():
        trace = model(x, samples=2)
        for index in range(5):
            alone = model(x[index : index + 1], samples=2, zs=[z[:, index : index + 1] for z in trace.z])
            torch.testing.assert_close(alone.log_w[:, 0], trace.log_w[:, index])


@pytest.mark.parametrize("make", [dense, conv], ids=["dense", "conv"])
def test_given_layers_are_kept(make):
    model = make()
    drawn = model.descend(3)
    assert [z.shape for z in drawn] == [(3, *shape) for shape in model.z_shapes]
    for kept in (1, 2, 3):
        zs = model.descend(3, given=drawn[-kept:])
        assert all(torch.equal(a, b) for a, b in zip(zs[-kept:], drawn[-kept:], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(zs[:-kept], drawn[:-kept], strict=True))


def test_twelve_layers_train_from_the_first_step():
    torch.manual_seed(0)
    model, x = conv((0, 4, 8)), images(8, (1, 28, 28), torch.float32)
    optimizer, bounds = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(12):
        bound = AnalyticELBO()(model, x).mean()
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        bounds.append(bound.item())
    assert bounds[-1] > bounds[0] + 50 and bounds[0] > -2500
    assert all(after > before - 20 for before, after in pairwise(bounds))


# -- Refusals


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(dense, posterior=GumbelSoftmaxPosterior), "one-hot.*posterior=diagonal_normal"),
        (partial(dense, rungs=partial(DenseRungs, latent_dims=(3, 2))), r"widths=\[512, 256, 128\]: a ladder of 2"),
        (partial(conv, layers=(0, 0)), r"layers=\[0, 0\]: a ladder needs at least one layer"),
        (partial(conv, x_shape=(784,)), "ConvRungs reads images"),
        (partial(dense, decoder=ConvHead), "ConvHead keeps the size of its maps"),
    ],
)  # fmt: skip
def test_refusals(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize("samples", [1, 3])
def test_maps_have_any_leading_shape(samples):
    rungs = ConvRungs((1, 8, 8), layers=(1, 1), width=4, latent_channels=2)
    h, d = torch.randn(samples, 5, 4, 4, 4), torch.randn(5, 4, 4, 4)
    z = torch.randn(samples, 5, *rungs.z_shapes[-1])
    below = rungs.down(2)(h, z)
    assert below.shape == (samples, 5, 4, 8, 8)
    evidence = rungs.evidence(1)(torch.randn(5, 4, 8, 8), below)
    assert evidence.shape == (samples, 5, 2, 2, 8, 8)
    assert rungs.up(2)(evidence.new_ones(5, 4, 8, 8)).shape == d.shape
