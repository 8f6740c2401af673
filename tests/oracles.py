"""Exact values of small models, and the z-test of estimates against them."""

import math

import numpy as np
import torch
from torch import Tensor

from latentlab.likelihoods import BernoulliLikelihood
from latentlab.models.vae import VAE
from latentlab.nn.mlp import MLP
from latentlab.posteriors import DiagonalNormalPosterior
from latentlab.priors import StandardNormalPrior

# Two-sided: a correct estimator fails one comparison in 150,000. Tests are seeded, so that results are repeatable.
Z_MAX = 4.5


# The |z| of every comparison of the running test. `conftest.py` summarises them at the end of the session.
COMPARISONS: list[float] = []


def z_scores(estimates: Tensor, exact: Tensor) -> Tensor:
    """z of the mean over the first dimension of independent `estimates` against `exact`."""
    mean, error = estimates.mean(0), estimates.std(0) / math.sqrt(len(estimates))
    # Equal estimates differ from the exact value by rounding alone.
    return (mean - exact).detach() / (error.detach() + 1e-12)


def largest_z(estimates: Tensor, exact: Tensor) -> float:
    """The largest |z| of the mean over the first dimension of independent `estimates` against `exact`."""
    scores = z_scores(estimates, exact).abs().flatten()
    COMPARISONS.extend(scores.tolist())
    return float(scores.max())


def tiny_vae(latent_dim: int = 1, x_shape: tuple[int, ...] = (1, 2, 2), **parts: object) -> VAE:
    """A small VAE in float64, with tanh networks for smooth integrands."""

    def network(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> MLP:
        return MLP(in_shape, out_shape, hidden=(8,), activation=torch.nn.Tanh)

    defaults = {
        "encoder": network,
        "decoder": network,
        "posterior": DiagonalNormalPosterior,
        "likelihood": BernoulliLikelihood,
        "prior": StandardNormalPrior,
    }
    return VAE(latent_dim=latent_dim, x_shape=x_shape, **(defaults | parts)).double()


def all_binary_images(x_shape: tuple[int, ...]) -> Tensor:
    """All 2^D images of D binary pixels, (2^D, *x_shape)."""
    size = math.prod(x_shape)
    bits = torch.arange(2**size)[:, None] >> torch.arange(size) & 1
    return bits.double().view(-1, *x_shape)


def gauss_hermite(points: int = 100) -> tuple[Tensor, Tensor]:
    """Nodes and weights with E[f(e)] = sum_i w_i f(e_i) for e ~ N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    return torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))


def exact_elbo(vae: VAE, x: Tensor) -> Tensor:
    """The ELBO of a VAE with one latent by quadrature over q, (B,), differentiable."""
    nodes, weights = gauss_hermite()
    normal = vae.posterior(x).base_dist
    z = normal.loc + normal.scale * nodes[:, None, None]  # (points, B, 1)
    trace = vae(x, samples=len(nodes), zs=[z])
    return (weights[:, None] * trace.log_w).sum(0)


def exact_log_likelihood(vae: VAE, x: Tensor) -> Tensor:
    """log p(x) of a VAE with one latent by quadrature over the prior N(0, 1), (B,)."""
    nodes, weights = gauss_hermite()
    log_px_z = vae.likelihood(nodes[:, None, None]).log_prob(x)  # (points, B)
    return (log_px_z + weights.log()[:, None]).logsumexp(0)
