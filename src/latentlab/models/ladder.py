"""The ladder variational autoencoder: inference from the top down, along the generative path."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import e, log, prod
from typing import cast

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import softplus

from latentlab.errors import UserError
from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.hierarchy import Hierarchy
from latentlab.nn import NetworkFactory, Shape, full_precision
from latentlab.nn.ladder import RungsFactory
from latentlab.posteriors import Posterior, PosteriorFactory
from latentlab.priors import PriorFactory
from latentlab.trace import Layer, Trace, draw

# Where softplus is 1, so that networks that return zeros make standard normals.
UNIT = log(e - 1)


class Ascent(Posterior):
    r"""q(z_L|x): the deterministic way up $d_l = u_l(d_{l-1})$, $d_0 = x$, and the posterior of the top layer at $d_L$.

    Args:
        in_shape: the shape of one image.
        up: the networks u_1, ..., u_L.
        top: q(z_L|d_L).

    Raises:
        UserError: for a posterior of one-hot latents.
    """

    def __init__(self, in_shape: Shape, up: Sequence[nn.Module], top: Posterior) -> None:
        super().__init__(in_shape, top.event_shape)
        if top.discrete:
            raise UserError(
                f"LadderVAE has real latents, and {type(top).__name__} draws one-hot ones: "
                "choose posterior=diagonal_normal or full_rank_normal, or model=categorical_vae"
            )
        self.up = nn.ModuleList(up)
        self.top = top

    def climb(self, x: Tensor) -> list[Tensor]:
        """d_1, ..., d_L for x (*, *in_shape), each (*, *d_shape)."""
        ds = [x]
        for network in self.up:
            ds.append(network(ds[-1]))
        return ds[1:]

    def forward(self, x: Tensor) -> Distribution:
        """q(z_L|x) for x (*, *in_shape), batch shape *."""
        return self.top(self.climb(x)[-1])


class Rung(nn.Module):
    r"""A layer below the top: $p(z_l|z_{>l})$, and $q(z_l|z_{>l}, x)$ which is that times a normal term of the image.

    With $p = \mathcal N(\mu_p, \sigma_p^2)$ and the term $\mathcal N(z_l; \hat\mu, \hat\sigma^2)$ precisions add up,
    $\sigma_q^{-2} = \hat\sigma^{-2} + \sigma_p^{-2}$ and
    $\mu_q = \sigma_q^2 (\hat\mu \hat\sigma^{-2} + \mu_p \sigma_p^{-2})$ (Sønderby et al. 2016, section 2). Scales are
    the softplus of what the networks return, as there, plus `min_scale`: they do not explode as exponentials do.

    Args:
        expectation: the network of $\mu_p$ and $\sigma_p$, h -> (2, *z_shape).
        evidence: the network of $\hat\mu$ and $\hat\sigma$, (d, h) -> (2, *z_shape).
        z_shape: the shape of one latent.
        min_scale: the least standard deviation of either.
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

    Sønderby et al. 2016. Inference runs down the generative path: q of a layer is p of it, corrected by what the image
    says (see `Rung`), given the same draws of the layers above. The KL of each layer is hence a term of the bound, in
    closed form where that of the top layer has one. With one layer it is the VAE of the same networks.

    Args:
        rungs: makes the networks between the layers, of the shape of one image.
        decoder: makes the likelihood's network.
        posterior: makes q(z_L|d_L).
        likelihood: makes p(x|z).
        prior: makes p(z_L).
        min_scale: the least standard deviation of p and of the image's term below the top.
        x_shape: the shape of one image.

    Raises:
        UserError: for a posterior of one-hot latents.
    """

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
        # What stands above the top.
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        """The trace of x (B, *x_shape) with `samples` draws of each layer, or with the given `zs`, (K, B, *z_shape)."""
        infer, scored = self._inference(x), []

        def choose(index: int, h: Tensor) -> Tensor:
            q, p = infer(index, h)
            z = _drawn(q, samples if index == len(self.rungs) else None) if zs is None else zs[index]
            scored.append(Layer.scored(z, q, p))
            return z

        px = self.likelihood(self._walk(choose))
        return Trace(scored[::-1], px, px.log_prob(x))

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of q(z|x): all of the generative path but its last step, from z_1 to x, among them."""
        return chain.from_iterable(part.parameters() for part in (self.posterior, self.rungs, self.down[1:]))

    def descend(self, n: int, given: Sequence[Tensor] = ()) -> list[Tensor]:
        """n ancestral draws of every layer, each (n, *z_shape); the topmost that are `given` are kept as they are."""
        drawn: list[Tensor] = []
        missing = len(self.z_shapes) - len(given)

        def choose(index: int, h: Tensor) -> Tensor:
            if index >= missing:
                drawn.append(given[index - missing])
            elif index == len(self.rungs):
                drawn.append(self.prior().sample((n,)))
            else:
                drawn.append(cast(Rung, self.rungs[index]).p(h).sample())
            return drawn[-1]

        self._walk(choose)
        return drawn[::-1]

    def px(self, zs: Sequence[Tensor]) -> Distribution:
        """p(x|z) for latents of every layer, each (*, *z_shape), batch shape *."""
        return self.likelihood(self._walk(lambda index, h: zs[index]))

    def posterior_means(self, x: Tensor) -> list[Tensor]:
        """The mean of each layer's q, given the means of the layers above, each (B, *z_shape)."""
        infer, means = self._inference(x), []

        def choose(index: int, h: Tensor) -> Tensor:
            means.append(infer(index, h)[0].mean)
            return means[-1]

        self._walk(choose)
        return means[::-1]

    def initialise(self, x: Tensor) -> None:
        """Adapt likelihood and prior to training images (N, *x_shape)."""
        self.likelihood.initialise(x)
        self.prior.initialise(x)

    def _inference(self, x: Tensor) -> Callable[[int, Tensor], tuple[Distribution, Distribution]]:
        """q and p of a layer, given the state of the layers above."""
        *ds, d_top = self.posterior.climb(x)

        def infer(index: int, h: Tensor) -> tuple[Distribution, Distribution]:
            if index == len(ds):
                return self.posterior.top(d_top), self.prior()
            return self.rungs[index](ds[index], h)

        return infer

    def _walk(self, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The state below z_1, with each layer's latents chosen, from the top, by its index and the state above."""
        h = self.zero
        for index in reversed(range(len(self.down))):
            h = self.down[index](h, choose(index, h))
        return h


def _drawn(q: Distribution, samples: int | None) -> Tensor:
    """`samples` draws from q, or, where None, one of each element of its batch, which has them already."""
    return draw(q, 1)[0] if samples is None else draw(q, samples)
