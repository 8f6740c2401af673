"""A normalising flow of the data."""

from collections.abc import Callable, Sequence
from math import log, prod
from typing import Annotated

import torch
import zuko
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn.functional import logsigmoid

from latentlab.errors import UserError
from latentlab.models.base import GenerativeModel
from latentlab.protocols import Protocol, Real


class Flow(GenerativeModel):
    r"""A flow, $p(x) = \mathcal N(f(y); 0, I)\,|\det \partial f / \partial y|\,|\det \partial y / \partial x|$.

    Pixels x in [0, 1] become $y = \mathrm{logit}(\lambda + (1 - 2 \lambda) x)$ first (Papamakarios et al. 2017, section
    4.2; Dinh et al. 2017, section 4.1). Vectors stay y = x. The score `elbo` is log p(x) itself, and the latents are
    z = f(y).

    Args:
        flow: makes a flow of D features, such as `zuko.flows.RealNVP`, `MAF` or `NSF`.
        protocol: the protocol of the data.
        margin: $\lambda$, which keeps y finite.
        x_shape: the shape of one x.

    Raises:
        UserError: for a protocol without a density.
    """

    weighted = False
    learned_inference = False

    def __init__(
        self,
        flow: Callable[[int], zuko.flows.Flow],
        protocol: Protocol,
        margin: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latent_dim = prod(self.x_shape)
        self.margin = margin
        self.bounded_pixels = not isinstance(protocol, Real)
        self.check(protocol)
        self.flow = flow(self.latent_dim)

    def terms(self, x: Tensor, samples: int = 1) -> dict[str, Tensor]:
        """The exact log p(x) as `elbo`, (B,), in nats. Draws nothing."""
        y, log_slope = self.unsquashed(x.flatten(1))
        return {"elbo": self.flow().log_prob(y) + log_slope}

    def unsquashed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return y and $\log|\det \partial y / \partial x|$ for x (N, D), (N, D) and (N,)."""
        if not self.bounded_pixels:
            return x, x.new_zeros(len(x))
        y = torch.logit(self.margin + (1 - 2 * self.margin) * x)
        slope = log(1 - 2 * self.margin) - logsigmoid(y) - logsigmoid(-y)
        return y, slope.sum(1)

    def squashed(self, y: Tensor) -> Tensor:
        """Return x for y, (N, D)."""
        if not self.bounded_pixels:
            return y
        return ((y.sigmoid() - self.margin) / (1 - 2 * self.margin)).clamp(0, 1)

    def sample_latents(self, n: int) -> Tensor:
        return self.flow().base.sample((n,))

    def generate(self, n: int, mean: bool = False) -> Tensor:
        """Draw n x from p(x), (n, *x_shape). x is a function of z, so means given z are the same."""
        return self.decode(self.sample_latents(n))

    def encode(self, x: Tensor) -> Tensor:
        return self.flow().transform(self.unsquashed(x.flatten(1))[0])

    posterior_mean = encode

    def decode(self, z: Tensor) -> Tensor:
        return self.squashed(self.flow().transform.inv(z)).unflatten(-1, self.x_shape)

    def check(self, protocol: Protocol) -> None:
        if protocol.levels is not None or isinstance(protocol, Real) == self.bounded_pixels:
            raise UserError(
                f"a flow is a density of continuous numbers, and protocol={protocol.name} gives others: choose "
                "protocol=dequantised for images, or a set of points such as data=moons"
            )
