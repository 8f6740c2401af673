"""The likelihoods of a diffusion, which maps x to its data by `data`."""

from abc import abstractmethod
from math import exp, sqrt

from torch import Tensor
from torch.distributions import Independent, Normal

from latentlab.distributions import LevelNormal
from latentlab.likelihoods.base import Likelihood
from latentlab.nn import Shape


class Noised(Likelihood):
    r"""A likelihood p(x|z_0) of data with little noise, $z_0 \sim N(\alpha_0 d, \sigma_0^2 I)$. Nothing is learned.

    Args:
        x_shape: the shape of one x and of z_0.
        gamma: $\gamma(0)$, which sets $\alpha_0$ and $\sigma_0$.
    """

    def __init__(self, x_shape: Shape, gamma: float) -> None:
        super().__init__(x_shape, x_shape)
        self.gain = 1 / sqrt(1 + exp(gamma))  # alpha_0
        self.noise = exp(gamma / 2)  # sigma_0 / alpha_0

    @abstractmethod
    def data(self, x: Tensor) -> Tensor:
        """Return the diffusion's data d for x, both (N, *x_shape)."""


class NoisedVectors(Noised):
    r"""Independent real numbers, $p(x|z_0) = N(z_0 / \alpha_0, \sigma_0^2 / \alpha_0^2 I)$ with d = x.

    It is the posterior of x if p(x) is flat on the scale of the noise.
    """

    def forward(self, z: Tensor) -> Independent:
        return Independent(Normal(z / self.gain, self.noise), len(self.x_shape))

    def data(self, x: Tensor) -> Tensor:
        return x


class NoisedLikelihood(Noised):
    r"""Independent pixels, $P(x_d\,|\,z_0) \propto N(z_{0d}; \alpha_0 (2 x_d - 1), \sigma_0^2)$, $x_d = k / (n-1)$.

    Normalised over the n levels k = 0, ..., n - 1 (Kingma et al. 2021, section 3.3). This is the posterior of x under a
    uniform prior. It is close to the posterior under any prior, because z_0 has little noise. The data d are the pixels
    scaled to [-1, 1].

    Args:
        x_shape: the shape of one image and of z_0.
        levels: the number n of values that a pixel takes.
        gamma: $\gamma(0)$, which sets $\alpha_0$ and $\sigma_0$.
    """

    levels: int

    def __init__(self, x_shape: Shape, levels: int, gamma: float) -> None:
        super().__init__(x_shape, gamma)
        self.levels = levels

    def forward(self, z: Tensor) -> Independent:
        mean = (z / self.gain + 1) / 2
        return Independent(LevelNormal(mean, self.noise / 2, self.levels), len(self.x_shape))

    def data(self, x: Tensor) -> Tensor:
        return 2 * x - 1
