"""The conditional variational autoencoder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import one_hot

from latentlab.batch import Batch
from latentlab.errors import UserError
from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.base import GenerativeModel
from latentlab.models.vae import SingleLayer
from latentlab.nn import NetworkFactory
from latentlab.posteriors import PosteriorFactory
from latentlab.priors import PriorFactory
from latentlab.trace import Layer, Trace, draw, sample


class ClassModel(GenerativeModel, ABC):
    """A model p(x|y) p(y) with a class y.

    Attributes:
        num_classes: the number of classes.
    """

    num_classes: int

    @abstractmethod
    def generate(self, n: int, mean: bool = False, y: Tensor | None = None) -> Tensor:
        """Draw images from p(x|y) for classes y (n,), by default drawn from p(y), or their means."""


class ConditionalVAE(SingleLayer, ClassModel):
    r"""The conditional VAE $p(x|y,z)\,p(y)\,p(z)$ with $q(z|x,y)$ and an observed class y.

    Kingma et al. 2014. `elbo` is a bound on the *joint* density,
    $\log p(x, y) \geq E_q[\log p(x|y,z)] + \log p(y) - KL(q(z|x,y)\,\|\,p(z))$. It also bounds $\log p(x)$, which is
    at least $\log p(x, y)$, so it compares with the bounds of models without labels. `elbo_x_given_y`, without
    $\log p(y)$, bounds $\log p(x|y)$ and does not compare: under a uniform p(y) it is log C higher.

    The decoder's input is z with the one-hot label appended. The encoder's input is the image with a learned plane of
    the label as another channel, so that any network of images can be the encoder.

    Args:
        latent_dim: the number of latents, or of one-hot latents for a discrete posterior.
        encoder: makes the posterior's network.
        decoder: makes the likelihood's network.
        posterior: makes q(z|x, y).
        likelihood: makes p(x|y, z).
        prior: makes p(z).
        num_classes: the number C of classes. Labels are 0 to C - 1.
        learned_labels: True to learn p(y), which starts from the frequencies of the training labels. False for a
            uniform p(y).
        x_shape: the shape (channels, height, width) of one image.
    """

    labelled = True

    def __init__(
        self,
        latent_dim: PositiveInt,
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        num_classes: Annotated[int, Field(ge=2)] = 10,
        learned_labels: bool = False,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        channels, *size = self.x_shape
        self.num_classes = num_classes
        self.planes = nn.Embedding(num_classes, prod(size))
        self.label_logits = nn.Parameter(torch.zeros(num_classes), requires_grad=learned_labels)
        in_shape = (channels + 1, *size)
        self.posterior = posterior(network=encoder, in_shape=in_shape, latent_dim=latent_dim)
        self.z_shape = self.posterior.event_shape
        self.latent_dim = prod(self.z_shape)
        code = (self.latent_dim + num_classes,)
        self.likelihood = likelihood(network=decoder, in_shape=code, x_shape=self.x_shape)
        self.prior = prior(event_shape=self.z_shape, posterior=self.posterior)

    def check_classes(self, n: int) -> None:
        if n > self.num_classes:
            raise UserError(
                f"model.num_classes={self.num_classes}: the data have labels from 0 to {n - 1}: "
                f"set model.num_classes={n}"
            )

    def observe(self, batch: Batch) -> Batch:
        return batch

    def forward(self, x: Batch, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        """The trace of images and labels, with `log_px_z` = log p(x|y, z) + log p(y)."""
        q = self.posterior(self.joined(x))
        z = draw(q, samples) if zs is None else zs[0]  # (K, B, *z_shape)
        px = self.likelihood(self.coded(z, x.y))
        return Trace([Layer.scored(z, q, self.prior())], px, px.log_prob(x.x) + self.labels.log_prob(x.y))

    @property
    def labels(self) -> Categorical:
        """The distribution p(y)."""
        return Categorical(logits=self.label_logits)

    def joined(self, x: Batch) -> Tensor:
        """The encoder's input: images with the plane of their label as the last channel, (B, C + 1, H, W)."""
        return with_planes(x.x, x.y, self.planes)

    def coded(self, z: Tensor, y: Tensor) -> Tensor:
        """The decoder's input: flat latents z (*, B, *z_shape) with one-hot labels y (B,), (*, B, latent_dim + C)."""
        flat = z.flatten(-len(self.z_shape))
        label = one_hot(y, self.num_classes).to(flat.dtype)
        return torch.cat([flat, label.expand(*flat.shape[:-1], -1)], dim=-1)

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        return chain(self.planes.parameters(), self.posterior.parameters())

    def terms(self, x: Batch, samples: int = 1) -> dict[str, Tensor]:
        """`elbo` = reconstruction + log_py - kl with its parts, and `elbo_x_given_y` = elbo - log_py, each (B,)."""
        terms = super().terms(x, samples)
        log_py = self.labels.log_prob(x.y)
        return {
            **terms,
            "reconstruction": terms["reconstruction"] - log_py,
            "log_py": log_py,
            "elbo_x_given_y": terms["elbo"] - log_py,
        }

    def generate(self, n: int, mean: bool = False, y: Tensor | None = None) -> Tensor:
        """Draw images from p(x|y) for labels y (n,), by default drawn from p(y), or the means of p(x|y, z)."""
        z = self.prior().sample((n,))
        labels = self.labels.sample((n,)) if y is None else y
        px = self.likelihood(self.coded(z, labels))
        return px.mean if mean else px.sample()

    def encode(self, x: Batch) -> Tensor:
        return sample(self.posterior(self.joined(x))).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """The means of p(x|z) = sum_y p(y) p(x|y, z) for flat z (B, latent_dim), (B, *x_shape)."""
        every = torch.arange(self.num_classes, device=z.device)[:, None]  # (C, 1)
        means = [self._mean(z, y.expand(len(z))) for y in every]
        return torch.stack(means, dim=-1) @ self.labels.probs

    def reconstruct(self, x: Batch) -> Tensor:
        """The means of p(x|y, z) for z ~ q(z|x, y) and the observed y, (B, *x_shape)."""
        return self._mean(self.encode(x), x.y)

    def _mean(self, z: Tensor, y: Tensor) -> Tensor:
        return self.likelihood(self.coded(z.unflatten(-1, self.z_shape), y)).mean

    def posterior_mean(self, x: Batch) -> Tensor:
        return self.posterior(self.joined(x)).mean.flatten(1)

    @torch.no_grad()
    def initialise(self, x: Batch) -> None:
        self.likelihood.initialise(x.x)
        self.prior.initialise(self.joined(x))
        if self.label_logits.requires_grad:
            counts = x.y.bincount(minlength=self.num_classes)
            self.label_logits.copy_((counts + 1).log())


def with_planes(x: Tensor, y: Tensor, planes: nn.Embedding) -> Tensor:
    """Images (B, C, *) with the learned plane of their class y (B,) as the last channel, (B, C + 1, *)."""
    return torch.cat([x, planes(y).view(-1, 1, *x.shape[2:])], dim=1)
