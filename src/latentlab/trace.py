"""The trace of a model: one draw of all latents with its log-densities.

A hierarchy is a VAE whose latent is a list: layer 1 is next to the data, layer L is the top.
With K samples of a batch of B examples every score has shape (K, B).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from latentlab.draws import each_block_of


class Lazy:
    """A property that is computed when it is first read, as if it had been computed with its owner.

    It carries gradients if the owner was made while gradients were recorded, even if it is first read under `no_grad`.
    `functools.cached_property` holds a lock in Python 3.11, where `torch.compile` interrupts its graph.
    """

    def __init__(self, compute: Callable[[Any], Tensor]) -> None:
        self.compute = compute

    def __get__(self, owner: Any, kind: type | None = None) -> Tensor:
        if torch.is_grad_enabled() == owner.recorded:
            value = self.compute(owner)
        else:
            with torch.inference_mode(False), torch.set_grad_enabled(owner.recorded):
                value = self.compute(owner)
        object.__setattr__(owner, self.compute.__name__, value)
        return value


@dataclass(frozen=True)
class Layer:
    r"""One layer of latents: z ~ q(z|.), with log q(z|.) and log p(z|.).

    The log-densities of a `scored` layer are those of the model at its call. A frozen model (see `gradients.frozen`) is
    frozen only during its call, so a distribution that owns a network would later use the live parameters. It is scored
    at once. A normal distribution holds tensors alone, and is scored when its log-density is first read. The analytic
    bound reads none: this saves a tenth of the time of a small model's forward pass.

    Attributes:
        z: the draw, (K, B, ...).
        q: the inference model's conditional, which z was drawn from.
        p: the generative model's conditional, or the prior.
        coupled: True if p depends on layers that were drawn given this z, such as p(z_1|z_2) with z_2 ~ q(z_2|z_1).
            KL(q || p) is then not a term of the bound, because p changes with z.
        recorded: True if gradients were recorded when the layer was made.
    """

    z: Tensor
    q: Distribution
    p: Distribution
    coupled: bool = False
    recorded: bool = field(default_factory=torch.is_grad_enabled, init=False, repr=False, compare=False)

    @classmethod
    def scored(cls, z: Tensor, q: Distribution, p: Distribution, coupled: bool = False) -> "Layer":
        """The layer of a draw z with its log-densities under q and p."""
        layer = cls(z, q, p, coupled)
        for distribution, name in ((q, "log_q"), (p, "log_p")):
            if not _is_normal(distribution):
                getattr(layer, name)
        return layer

    @Lazy
    def log_q(self) -> Tensor:
        """log q(z|.), (K, B)."""
        return self.q.log_prob(self.z)

    @Lazy
    def log_p(self) -> Tensor:
        """log p(z|.), (K, B)."""
        return self.p.log_prob(self.z)

    def kl(self) -> Tensor:
        r"""KL(q || p) given the layers that q and p depend on, (K, B).

        A layer that is not coupled has the closed form, if torch knows it. Otherwise the KL is estimated by
        $-H[q] - \log p(z)$ with the exact entropy of q, or by $\log q(z) - \log p(z)$ if the entropy is unknown.
        All three are unbiased in the mean over samples.
        """
        for estimate in (self._entropy_kl,) if self.coupled else (self._closed_kl, self._entropy_kl):
            try:
                return estimate().expand(self.z.shape[: self.z.dim() - len(self.q.event_shape)])
            except NotImplementedError:
                continue
        return self.log_q - self.log_p

    def _closed_kl(self) -> Tensor:
        return kl_divergence(self.q, self.p)

    def _entropy_kl(self) -> Tensor:
        return -self.q.entropy() - self.log_p


def _is_normal(distribution: Distribution) -> bool:
    base = distribution.base_dist if type(distribution) is Independent else distribution
    return type(base) is Normal


@dataclass(frozen=True)
class Trace:
    r"""A draw of all latents given x, with the terms of $\log w = \log p(x|z) + \log p(z) - \log q(z|x)$.

    Attributes:
        layers: the layers of latents, z_1 first.
        px: p(x|z), batch shape (K, B).
        log_px_z: log p(x|z), summed over pixels, (K, B).
    """

    layers: Sequence[Layer]
    px: Distribution
    log_px_z: Tensor

    @property
    def z(self) -> list[Tensor]:
        """The draws, a list of layers, each (K, B, ...)."""
        return [layer.z for layer in self.layers]

    @property
    def log_pz(self) -> Tensor:
        """log p(z), summed over layers, (K, B)."""
        return torch.stack([layer.log_p for layer in self.layers]).sum(0)

    @property
    def log_qz_x(self) -> Tensor:
        """log q(z|x), summed over layers, (K, B)."""
        return torch.stack([layer.log_q for layer in self.layers]).sum(0)

    @property
    def log_w(self) -> Tensor:
        """The log importance weight log p(x, z) - log q(z|x), (K, B)."""
        # log q is computed first, because the order of a gradient's terms is part of its rounding.
        log_qz_x = self.log_qz_x
        return self.log_px_z + self.log_pz - log_qz_x

    def terms(self) -> dict[str, Tensor]:
        r"""The ELBO $E_q[\log p(x|z)] - \sum_l KL_l$ and its parts, averaged over samples, each (B,), in nats.

        `elbo`, `reconstruction`, `kl`, and the KL of each layer (see `Layer.kl`) as `kl_1`, `kl_2`, ...
        """
        reconstruction = mean_over_samples(self.log_px_z)
        kls = [mean_over_samples(layer.kl()) for layer in self.layers]
        kl = torch.stack(kls).sum(0)
        per_layer = {f"kl_{level}": value for level, value in enumerate(kls, start=1)}
        return {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl, **per_layer}


class Scored(nn.Module, ABC):
    """A model that scores examples.

    Attributes:
        bounded: True if the score is a bound on log p(x).
        bound: the name of the term that is the model's score.
    """

    bounded: ClassVar[bool] = True
    bound: ClassVar[str] = "elbo"

    @abstractmethod
    def terms(self, x: Any, samples: int = 1) -> dict[str, Tensor]:
        """The score `bound` and its parts for each example, each (B,), in nats, from `samples` draws of the latents."""


class Traced(Scored, ABC):
    """A model whose call returns a trace.

    Attributes:
        first_drawn: the index of the layer that is drawn first, given x. It is 0 if x reaches all other layers through
            z_1 alone.
    """

    first_drawn: ClassVar[int] = 0

    @abstractmethod
    def forward(self, x: Any, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        """The trace of x, with `samples` draws of the latents (see `draw`) or with the given `zs`, a list of layers.

        Given latents keep the gradient paths that they carry, and get no others.
        """

    @property
    @abstractmethod
    def reparametrised(self) -> bool:
        """True if draws carry a gradient path to the parameters of q. Pathwise objectives need one."""

    @property
    @abstractmethod
    def discrete(self) -> bool:
        """True if latents are discrete. A gradient path then leads through a relaxed draw, which has no density."""

    def terms(self, x: Any, samples: int = 1) -> dict[str, Tensor]:
        """The terms of the trace, see `Trace.terms`."""
        return self(x, samples=samples).terms()

    @abstractmethod
    def inference_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of q(z|x)."""


def mean_over_samples(values: Tensor) -> Tensor:
    """The mean over the first dimension, (K, ...) to (...). For K = 1 it is the values, without arithmetic."""
    return values.squeeze(0) if len(values) == 1 else values.mean(0)


def draw(q: Distribution, samples: int | None = None) -> Tensor:
    """Draw from q: with a gradient path if q has one and gradients are recorded, else exactly.

    The result has a leading dimension of `samples`, or no further dimension for None.

    The two kinds differ for a relaxed q, whose gradient path leads through a continuous relaxation of a discrete draw.
    """
    pathwise = torch.is_grad_enabled() and q.has_rsample
    return each_block_of(q, _shape(samples), q.rsample) if pathwise else sample(q, samples)


def sample(q: Distribution, samples: int | None = None) -> Tensor:
    """Draw from q exactly and without a gradient path, with a leading dimension as in `draw`."""
    return each_block_of(q, _shape(samples), q.sample)


def _shape(samples: int | None) -> torch.Size:
    return torch.Size(() if samples is None else (samples,))
