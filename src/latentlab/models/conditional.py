"""The variational autoencoder of images and their labels."""

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
from latentlab.models.vae import SingleLayer
from latentlab.nn import NetworkFactory
from latentlab.posteriors import PosteriorFactory
from latentlab.priors import PriorFactory
from latentlab.trace import Layer, Trace, draw


class ConditionalVAE(SingleLayer):
    r"""The conditional VAE $p(x|y,z)\,p(y)\,p(z)$ with $q(z|x,y)$ and the class y observed.

    Kingma et al. 2014, eq. 6. Its bound is one of the *joint* density,
    $\log p(x, y) \geq E_q[\log p(x|y,z)] + \log p(y) - KL(q(z|x,y)\,\|\,p(z))$, and hence of $\log p(x)$, which is no
    less than $\log p(x, y)$: it may stand beside the bounds of models without labels. Without $\log p(y)$ it is a
    bound of $\log p(x|y)$, which may not: under a uniform p(y) it is log C higher.

    The decoder gets z with the one-hot label appended. The encoder gets the image with one more channel, an affine
    function of the one-hot label that is learned, so that any network that reads images will do.

    Args:
        latent_dim: the number of latents, as the posterior counts them.
        encoder: makes the posterior's network.
        decoder: makes the likelihood's network.
        posterior: makes q(z|x, y).
        likelihood: makes p(x|y, z).
        prior: makes p(z).
        num_classes: the number C of classes; labels are 0 to C - 1.
        learned_labels: whether p(y) is learned, from the frequencies of the training labels on; else it is uniform.
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
        """The trace of images and labels with `samples` draws of z, or with the given `zs`, one (K, B, *z_shape).

        Its `log_px_z` is log p(x, y|z) = log p(x|y, z) + log p(y).
        """
        q = self.posterior(self.joined(x))
        z = draw(q, samples) if zs is None else zs[0]  # (K, B, *z_shape)
        px = self.likelihood(self.coded(z, x.y))
        return Trace([Layer.scored(z, q, self.prior())], px, px.log_prob(x.x) + self.labels.log_prob(x.y))

    @property
    def labels(self) -> Categorical:
        """p(y)."""
        return Categorical(logits=self.label_logits)

    def joined(self, x: Batch) -> Tensor:
        """Images with the plane of their label as the last channel, (B, channels + 1, height, width)."""
        plane = self.planes(x.y).view(-1, 1, *self.x_shape[1:])
        return torch.cat([x.x, plane], dim=1)

    def coded(self, z: Tensor, y: Tensor) -> Tensor:
        """Latents (*, B, *z_shape) with the one-hot labels y (B,), flat, (*, B, latent_dim + C)."""
        flat = z.flatten(-len(self.z_shape))
        label = one_hot(y, self.num_classes).to(flat.dtype)
        return torch.cat([flat, label.expand(*flat.shape[:-1], -1)], dim=-1)

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of q(z|x, y)."""
        return chain(self.planes.parameters(), self.posterior.parameters())

    def terms(self, x: Batch, samples: int = 1) -> dict[str, Tensor]:
        """The bound `elbo` of log p(x, y) and its parts for each example, elbo = reconstruction + log_py - kl.

        `elbo_x_given_y` = elbo - log_py is the bound of log p(x|y).
        """
        terms = super().terms(x, samples)
        log_py = self.labels.log_prob(x.y)
        return {
            **terms,
            "reconstruction": terms["reconstruction"] - log_py,
            "log_py": log_py,
            "elbo_x_given_y": terms["elbo"] - log_py,
        }

    def generate(self, n: int, mean: bool = False, y: Tensor | None = None) -> Tensor:
        """n draws x ~ p(x|y) of the labels y (n,), by default y ~ p(y), or the means of p(x|y, z), (n, *x_shape)."""
        z = self.prior().sample((n,))
        labels = self.labels.sample((n,)) if y is None else y
        px = self.likelihood(self.coded(z, labels))
        return px.mean if mean else px.sample()

    def encode(self, x: Batch) -> Tensor:
        """A draw z ~ q(z|x, y) for each image, flat, (B, latent_dim)."""
        return self.posterior(self.joined(x)).sample().flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """The means of p(x|z) = sum_y p(y) p(x|y, z) for flat z (B, latent_dim), (B, *x_shape)."""
        every = torch.arange(self.num_classes, device=z.device)[:, None]  # (C, 1)
        means = [self._mean(z, y.expand(len(z))) for y in every]
        return torch.stack(means, dim=-1) @ self.labels.probs

    def reconstruct(self, x: Batch) -> Tensor:
        """The means of p(x|y, z) for z ~ q(z|x, y), (B, *x_shape)."""
        return self._mean(self.encode(x), x.y)

    def _mean(self, z: Tensor, y: Tensor) -> Tensor:
        return self.likelihood(self.coded(z.unflatten(-1, self.z_shape), y)).mean

    def posterior_mean(self, x: Batch) -> Tensor:
        """The means of q(z|x, y), flat, (B, latent_dim)."""
        return self.posterior(self.joined(x)).mean.flatten(1)

    @torch.no_grad()
    def initialise(self, x: Batch) -> None:
        """Adapt likelihood, prior and, where it is learned, p(y) to training images and labels."""
        self.likelihood.initialise(x.x)
        self.prior.initialise(self.joined(x))
        if self.label_logits.requires_grad:
            counts = x.y.bincount(minlength=self.num_classes)
            self.label_logits.copy_((counts + 1).log())
