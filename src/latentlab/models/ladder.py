"""The ladder variational autoencoder: inference runs from the top down, along the generative path."""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import e, log, prod
from typing import cast

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import softplus

from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.hierarchy import Hierarchy, check_real
from latentlab.nn import NetworkFactory, Shape, full_precision
from latentlab.nn.ladder import RungsFactory
from latentlab.posteriors import Posterior, PosteriorFactory
from latentlab.priors import PriorFactory
from latentlab.trace import Layer, Trace, draw

# The input at which softplus is 1, so that networks that return zeros make standard normals.
UNIT = log(e - 1)


class Ascent(Posterior):
    r"""The posterior of the top layer, q(z_L|x) = q(z_L|d_L), at the end of a deterministic bottom-up pass.

    The bottom-up pass is $d_l = u_l(d_{l-1})$ with $d_0 = x$.

    Args:
        in_shape: the shape of one image.
        up: the networks u_1, ..., u_L.
        top: q(z_L|d_L).

    Raises:
        UserError: for a posterior of one-hot latents.
    """

    def __init__(self, in_shape: Shape, up: Sequence[nn.Module], top: Posterior) -> None:
        super().__init__(in_shape, top.event_shape)
        check_real(top)
        self.up = nn.ModuleList(up)
        self.top = top

    def bottom_up(self, x: Tensor) -> list[Tensor]:
        """d_1, ..., d_L for x (*, *in_shape), each (*, *d_shape)."""
        ds = [x]
        for network in self.up:
            ds.append(network(ds[-1]))
        return ds[1:]

    def forward(self, x: Tensor) -> Distribution:
        """q(z_L|x) for x (*, *in_shape), batch shape *."""
        return self.top(self.bottom_up(x)[-1])


class Rung(nn.Module):
    r"""A layer below the top, with $p(z_l|z_{>l})$ and $q(z_l|z_{>l}, x)$.

    q is the normalised product of $p = \mathcal N(\mu_p, \sigma_p^2)$ and a normal term of the image,
    $\mathcal N(z_l; \hat\mu, \hat\sigma^2)$. Precisions add up, $\sigma_q^{-2} = \hat\sigma^{-2} + \sigma_p^{-2}$, and
    $\mu_q = \sigma_q^2 (\hat\mu \hat\sigma^{-2} + \mu_p \sigma_p^{-2})$ (Sønderby et al. 2016, section 2). As in the
    paper, a scale is the softplus of a network's output, which does not explode as an exponential does. `min_scale` is
    added to it.

    Args:
        expectation: the network of $\mu_p$ and $\sigma_p$, h -> (2, *z_shape).
        evidence: the network of $\hat\mu$ and $\hat\sigma$, (d, h) -> (2, *z_shape).
        z_shape: the shape of one latent.
        min_scale: the least standard deviation of p and of the image's term.
    """

    def __init__(self, expectation: nn.Module, evidence: nn.Module, z_shape: Shape, min_scale: float) -> None:
        super().__init__()
        self.expectation = expectation
        self.evidence = evidence
        self.dims = len(z_shape)
        self.min_scale = min_scale

    def p(self, h: Tensor) -> Independent:
        """p(z_l|z_{>l}) for the state h of the layers above, (*, *h_shape), batch shape *."""
        return Independent(self._normal(self.expectation(h)), self.dims)

    def forward(self, d: Tensor, h: Tensor) -> tuple[Independent, Independent]:
        """q(z_l|z_{>l}, x) and p(z_l|z_{>l}) for d (B, *d_shape) and h (*, B, *h_shape), batch shape (*, B)."""
        p = self._normal(self.expectation(h))
        term = self._normal(self.evidence(d, h))
        return Independent(product(p, term), self.dims), Independent(p, self.dims)

    def _normal(self, parameters: Tensor) -> Normal:
        loc, raw = full_precision(parameters).unbind(-1 - self.dims)
        return Normal(loc, self.min_scale + softplus(raw + UNIT))


def product(one: Normal, other: Normal) -> Normal:
    """The normal whose density is proportional to the product of two."""
    variances = one.scale**2, other.scale**2
    total = variances[0] + variances[1]
    loc = one.loc + (other.loc - one.loc) * variances[0] / total
    return Normal(loc, one.scale * other.scale / total.sqrt())


class LadderVAE(Hierarchy):
    r"""The ladder VAE, $p(z_L) \prod_l p(z_l|z_{>l})\,p(x|z)$ with $q(z_L|x) \prod_l q(z_l|z_{>l}, x)$.

    Sønderby et al. 2016. Inference runs down the generative path: $q(z_l|z_{>l}, x)$ is $p(z_l|z_{>l})$ times a
    term of the image (see `Rung`). Hence the KL of every layer is a term of the bound. It is in closed form below the
    top. With one layer the model is the VAE with the same networks.

    Args:
        rungs: makes the networks between the layers, of the shape of one image.
        decoder: makes the likelihood's network.
        posterior: makes q(z_L|d_L).
        likelihood: makes p(x|z).
        prior: makes p(z_L).
        min_scale: the least standard deviation of p, and of the image's term, below the top.
        x_shape: the shape of one image.

    Raises:
        UserError: for a posterior of one-hot latents.
    """

    first_drawn = -1
    zero: Tensor

    def __init__(
        self,
        rungs: RungsFactory,
        decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        min_scale: PositiveFloat = 0.01,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        made = rungs(self.x_shape)
        *lower, top_shape = made.z_shapes
        layers = range(1, len(made.z_shapes) + 1)
        top = posterior(network=made.head, in_shape=made.d_shapes[-1], latent_dim=prod(top_shape))
        self.posterior = Ascent(self.x_shape, [made.up(layer) for layer in layers], top)
        self.rungs = nn.ModuleList(
            Rung(made.expectation(layer), made.evidence(layer), shape, min_scale)
            for layer, shape in enumerate(lower, start=1)
        )
        self.down = nn.ModuleList(made.down(layer) for layer in layers)
        self.likelihood = likelihood(network=decoder, in_shape=made.h_shape, x_shape=self.x_shape)
        self.prior = prior(event_shape=top.event_shape, posterior=self.posterior)
        self.z_shapes = (*map(tuple, lower), top.event_shape)
        self.latent_dim = sum(map(prod, self.z_shapes))
        # The state above the top layer.
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        """The trace of x (B, *x_shape) with `samples` draws of each layer, or the given `zs`, each (K, B, *z_shape)."""
        ds = self.posterior.bottom_up(x)
        q, p = self.posterior.top(ds[-1]), self.prior()
        z = draw(q, samples) if zs is None else zs[-1]
        h, layers = self.down[-1](self.zero, z), [Layer.scored(z, q, p)]
        for level in reversed(range(len(self.rungs))):
            q, p = self.rungs[level](ds[level], h)
            z = draw(q) if zs is None else zs[level]
            h = self.down[level](h, z)
            layers.insert(0, Layer.scored(z, q, p))
        px = self.likelihood(h)
        return Trace(layers, px, px.log_prob(x))

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of q(z|x). They include the generative path, but for its last step from z_1 to x."""
        return chain.from_iterable(part.parameters() for part in (self.posterior, self.rungs, self.down[1:]))

    def descend(self, n: int, given: Sequence[Tensor] = ()) -> list[Tensor]:
        zs = list(given) or [self.prior().sample((n,))]
        h = self.state(zs)
        for level in reversed(range(len(self.down) - len(zs))):
            zs.insert(0, cast(Rung, self.rungs[level]).p(h).sample())
            h = self.down[level](h, zs[0])
        return zs

    def px(self, zs: Sequence[Tensor]) -> Distribution:
        return self.likelihood(self.state(zs))

    def posterior_means(self, x: Tensor) -> list[Tensor]:
        ds = self.posterior.bottom_up(x)
        means = [self.posterior.top(ds[-1]).mean]
        h = self.state(means)
        for level in reversed(range(len(self.rungs))):
            q, _ = self.rungs[level](ds[level], h)
            means.insert(0, q.mean)
            h = self.down[level](h, means[0])
        return means

    def state(self, zs: Sequence[Tensor]) -> Tensor:
        """The state below the topmost layers `zs`."""
        h = self.zero
        for down, z in zip(reversed(self.down), reversed(zs), strict=False):
            h = down(h, z)
        return h

    def initialise(self, x: Tensor) -> None:
        """Adapt likelihood and prior to training images (N, *x_shape)."""
        self.likelihood.initialise(x)
        self.prior.initialise(x)
