"""The hierarchical variational autoencoder with bottom-up inference."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field, PositiveInt

from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.bottom_up import BottomUp, LearnedInference
from latentlab.models.steps import SeparateSteps
from latentlab.nn import NetworkFactory
from latentlab.posteriors import PosteriorFactory
from latentlab.priors import PriorFactory


class HierarchicalVAE(BottomUp):
    r"""The VAE with L layers, $p(z_L) \dots p(z_1|z_2)\,p(x|z_1)$ and $q(z_1|x)\,q(z_2|z_1) \dots q(z_L|z_{L-1})$.

    Rezende et al. 2014 (section 2) have the model, Burda et al. 2016 (section 2) this inference. Every $p(z_l|z_{l+1})$
    is a diagonal normal.

    Args:
        latent_dims: the number of latents of each layer, z_1 first; their number is L.
        encoder: makes the network of q(z_1|x).
        decoder: makes the network of p(x|z_1).
        inner_encoder: makes the networks of q(z_{l+1}|z_l).
        inner_decoder: makes the networks of p(z_l|z_{l+1}).
        posterior: makes q(z_1|x) and q(z_{l+1}|z_l).
        likelihood: makes p(x|z_1).
        prior: makes p(z_L).
        x_shape: the shape of one image.

    Raises:
        UserError: for a posterior of one-hot latents.
    """

    def __init__(
        self,
        latent_dims: Annotated[Sequence[PositiveInt], Field(min_length=1)],
        encoder: NetworkFactory,
        decoder: NetworkFactory,
        inner_encoder: NetworkFactory,
        inner_decoder: NetworkFactory,
        posterior: PosteriorFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        upward = partial(SeparateSteps, network=inner_encoder, conditional=posterior)
        downward = partial(SeparateSteps, network=inner_decoder)
        inference = LearnedInference(tuple(x_shape), latent_dims, encoder, posterior, upward)
        super().__init__(inference, downward, decoder, likelihood, prior)
