"""The likelihood of a diffusion."""

from math import exp, sqrt

from torch import Tensor
from torch.distributions import Independent

from latentlab.distributions import LevelNormal
from latentlab.likelihoods.base import Likelihood
from latentlab.nn import Shape


class NoisedLikelihood(Likelihood):
    r"""Independent pixels, $P(x_d\,|\,z_0) \propto N(z_{0d}; \alpha_0 (2 x_d - 1), \sigma_0^2)$, $x_d = k / (n-1)$.

    Normalised over the n levels k = 0, ..., n - 1 (Kingma et al. 2021, section 3.3). This is the posterior of x under a
    uniform prior. It is close to the posterior under any prior, because z_0 has little noise. Nothing is learned.

    Args:
        x_shape: the shape of one image and of z_0.
        levels: the number n of values that a pixel takes.
        gamma: $\gamma(0)$, which sets $\alpha_0$ and $\sigma_0$.
    """

    levels: int

    def __init__(self, x_shape: Shape, levels: int, gamma: float) -> None:
        super().__init__(x_shape, x_shape)
        self.levels = levels
        self.gain = 1 / sqrt(1 + exp(gamma))  # alpha_0
        self.scale = exp(gamma / 2) / 2  # sigma_0 / (2 alpha_0)

    def forward(self, z: Tensor) -> Independent:
        mean = (z / self.gain + 1) / 2
        return Independent(LevelNormal(mean, self.scale, self.levels), len(self.x_shape))
