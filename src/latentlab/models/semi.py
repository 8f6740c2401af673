"""Variational autoencoders whose class y is a latent, summed out exactly: the semi-supervised VAE."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from latentlab.batch import Batch
from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.conditional import ClassModel, ConditionalVAE
from latentlab.nn import NetworkFactory, full_precision
from latentlab.posteriors import PosteriorFactory
from latentlab.priors import PriorFactory
from latentlab.protocols import Protocol

PARTS = ("elbo", "reconstruction", "kl")


class SemiSupervisedVAE(ClassModel):
    r"""The semi-supervised VAE M2: $p(x|y,z)\,p(y)\,p(z)$ with $q(y|x)\,q(z|x,y)$ and few observed classes y.

    Kingma et al. 2014, "Semi-supervised learning with deep generative models". `elbo` bounds log p(x), and no label
    enters it: $U(x) = \sum_y q(y|x) L(x, y) + H[q(y|x)]$ with the bound L(x, y) on log p(x, y) of a
    `ConditionalVAE`. The sum over y is exact, so each example costs C passes of the networks. `accuracy` is the share
    of examples whose label is the most probable y under q(y|x). An example without a label counts as wrong.

    Args:
        latent_dim: the number of latents, or of one-hot latents for a discrete posterior.
        encoder: makes the networks of the posterior and of the classifier.
        decoder: makes the likelihood's network.
        posterior: makes q(z|x, y).
        likelihood: makes p(x|y, z).
        prior: makes p(z).
        num_classes: the number C of classes. Labels are 0 to C - 1, and p(y) is uniform.
        x_shape: the shape (channels, height, width) of one image.
    """

    weighted = False
    labelled = True
    infers_labels = True

    def __init__(
        self,
        latent_dim: PositiveInt,
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        num_classes: Annotated[int, Field(ge=2)] = 10,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        parts = (latent_dim, encoder, decoder, posterior, likelihood, prior)
        self.joint = ConditionalVAE(*parts, num_classes=num_classes, x_shape=x_shape)
        self.classifier = encoder(self.joint.x_shape, (num_classes,))
        self.num_classes = num_classes
        self.x_shape, self.latent_dim = self.joint.x_shape, self.joint.latent_dim

    def check(self, protocol: Protocol) -> None:
        self.joint.check(protocol)

    def check_classes(self, n: int) -> None:
        self.joint.check_classes(n)

    def observe(self, batch: Batch) -> Batch:
        return batch

    def anneal(self, step: int) -> None:
        self.joint.anneal(step)

    def initialise(self, x: Batch) -> None:
        """Adapt to the images, paired with classes in turn, because most labels are missing."""
        self.joint.initialise(Batch(x.x, torch.arange(len(x.y), device=x.device) % self.num_classes))

    def classify(self, x: Tensor) -> Categorical:
        """q(y|x) of images x (B, *x_shape), batch shape (B,)."""
        return Categorical(logits=full_precision(self.classifier(x)))

    def terms(self, x: Batch, samples: int = 1) -> dict[str, Tensor]:
        """`elbo` = reconstruction - kl - kl_y, its parts, and `accuracy`, each (B,)."""
        q_y = self.classify(x.x)
        return self._marginal(q_y, self.by_class(x.x, samples)) | {
            "accuracy": (q_y.logits.argmax(-1) == x.y).to(q_y.logits.dtype)
        }

    def semi_supervised(self, x: Batch, alpha: float, samples: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        r"""The objective of examples, some with a label (Kingma et al. 2014), and the terms of `elbo`.

        $L(x, y) + \alpha \log q(y|x)$ for a labelled example and U(x) for another one, (B,).
        """
        q_y, joint = self.classify(x.x), self.by_class(x.x, samples)
        terms, y = self._marginal(q_y, joint), x.y.clamp(min=0)
        labelled = joint["elbo"].gather(-1, y[:, None])[:, 0] + alpha * q_y.log_prob(y)
        return torch.where(x.y >= 0, labelled, terms["elbo"]), terms

    def by_class(self, x: Tensor, samples: int = 1) -> dict[str, Tensor]:
        """The bound L(x, y) on log p(x, y) and its parts for every class, each (B, C)."""
        each = [self.joint.terms(self._as(y, x), samples) for y in range(self.num_classes)]
        return {name: torch.stack([terms[name] for terms in each], dim=-1) for name in PARTS}

    def _as(self, y: int, x: Tensor) -> Batch:
        return Batch(x, torch.full((len(x),), y, device=x.device))

    def _marginal(self, q_y: Categorical, joint: Mapping[str, Tensor]) -> dict[str, Tensor]:
        means = {name: (q_y.probs * joint[name]).sum(-1) for name in PARTS}
        return {
            **means,
            "elbo": means["elbo"] + q_y.entropy(),
            "kl_y": kl_divergence(q_y, self.joint.labels),
        }

    def generate(self, n: int, mean: bool = False, y: Tensor | None = None) -> Tensor:
        """Draw images from p(x|y) for labels y (n,), by default drawn from p(y), or the means of p(x|y, z)."""
        return self.joint.generate(n, mean, y)

    def sample_latents(self, n: int) -> Tensor:
        return self.joint.sample_latents(n)

    def labelled_by_q(self, x: Batch) -> Batch:
        """The images with their most probable classes under q(y|x)."""
        return Batch(x.x, self.classify(x.x).logits.argmax(-1))

    def encode(self, x: Batch) -> Tensor:
        """Draw z ~ q(z|x, y) with the most probable y under q(y|x), flat, (B, latent_dim)."""
        return self.joint.encode(self.labelled_by_q(x))

    def decode(self, z: Tensor) -> Tensor:
        """The means of p(x|z) = sum_y p(y) p(x|y, z) for flat z (B, latent_dim), (B, *x_shape)."""
        return self.joint.decode(z)

    def reconstruct(self, x: Batch) -> Tensor:
        """The means of p(x|y, z) for z ~ q(z|x, y) and the most probable y under q(y|x), (B, *x_shape)."""
        return self.joint.reconstruct(self.labelled_by_q(x))

    def posterior_mean(self, x: Batch) -> Tensor:
        return self.joint.posterior_mean(self.labelled_by_q(x))
