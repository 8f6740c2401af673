"""The Markovian hierarchical variational autoencoder: T layers of one shape."""

from collections.abc import Sequence

from pydantic import PositiveInt

from latentlab.likelihoods import LikelihoodFactory
from latentlab.models.bottom_up import BottomUp, InferenceFactory
from latentlab.models.steps import StepsFactory
from latentlab.nn import NetworkFactory
from latentlab.priors import PriorFactory


class MarkovianHVAE(BottomUp):
    r"""The VAE with T layers of one shape, $p(z_T) \prod p(z_{t-1}|z_t)\,p(x|z_1)$ and $q(z_1|x) \prod q(z_t|z_{t-1})$.

    Luo 2022, "Hierarchical variational autoencoders" (https://arxiv.org/abs/2208.11970). Its inference is learned
    (`LearnedInference`), each step by itself (`SeparateSteps`) or all alike (`SharedSteps`), or adds noise to the first
    layer (`NoisedLatents`) or to the data (`NoisedData`). Its transitions are learned too, or remove the noise
    (`DenoisingSteps`), which makes it the diffusion model of T - 1 steps. With a single layer it is the VAE.

    Args:
        latent_dim: the number of latents of a layer; without effect where the layers are noised data.
        levels: the number T of layers.
        decoder: makes the network of p(x|z_1).
        likelihood: makes p(x|z_1).
        prior: makes p(z_T).
        inference: makes q(z_1|x) and q(z_t|z_{t-1}).
        transitions: makes p(z_{t-1}|z_t).
        x_shape: the shape of one image.

    Raises:
        UserError: for parts that do not go together.
    """

    layer_name = "t"

    def __init__(
        self,
        latent_dim: PositiveInt,
        levels: PositiveInt,
        decoder: NetworkFactory,
        likelihood: LikelihoodFactory,
        prior: PriorFactory,
        inference: InferenceFactory,
        transitions: StepsFactory,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        built = inference(x_shape=tuple(x_shape), latent_dims=[latent_dim] * levels)
        super().__init__(built, transitions, decoder, likelihood, prior)
