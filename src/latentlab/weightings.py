r"""Weightings of the loss of a diffusion, $E[w(\gamma_t)\,|\epsilon - \hat\epsilon|^2]$ over uniform times t.

$\gamma_t$ is the negative log signal-to-noise ratio, $\mathrm{SNR} = e^{-\gamma_t}$. Papers state weights of another
prediction's error. They become weights of the noise's error by
$|x - \hat x|^2 = |\epsilon - \hat\epsilon|^2 / \mathrm{SNR}$ and
$|v - \hat v|^2 = (1 + 1/\mathrm{SNR})\,|\epsilon - \hat\epsilon|^2$.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

# The name of the bound with a weighted loss in place of L_T, among a diffusion's terms.
WEIGHTED = "weighted_elbo"


class Weighting(ABC):
    """A weight of the squared error of the noise.

    Attributes:
        name: the word that names it.
    """

    name: ClassVar[str]

    @property
    def loss(self) -> str:
        """The name of the weighted loss in the metrics, as in `train/simple_loss`."""
        return f"{self.name}_loss"

    @abstractmethod
    def __call__(self, gamma_t: Tensor, bound: Tensor) -> Tensor:
        """Return w for noise levels gamma_t and the weights of the bound, all of the same shape."""


@dataclass(frozen=True)
class Bound(Weighting):
    r"""The weight of the bound, $\frac T2 \mathrm{expm1}(\gamma_t - \gamma_s)$, or $\gamma'(t) / 2$ in the limit.

    Kingma et al. 2021, https://arxiv.org/abs/2107.00630, eq. 14 and 17.
    """

    name = "bound"

    def __call__(self, gamma_t: Tensor, bound: Tensor) -> Tensor:
        return bound


@dataclass(frozen=True)
class Simple(Weighting):
    """The unweighted error of the noise, w = 1 (Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 14)."""

    name = "simple"

    def __call__(self, gamma_t: Tensor, bound: Tensor) -> Tensor:
        return torch.ones_like(gamma_t)


@dataclass(frozen=True)
class SimpleVelocity(Weighting):
    r"""The unweighted error of the velocity, $w = 1 + 1 / \mathrm{SNR}$.

    It is the "SNR + 1" weighting of Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, section 4.
    """

    name = "simple_v"

    def __call__(self, gamma_t: Tensor, bound: Tensor) -> Tensor:
        return 1 + gamma_t.exp()


@dataclass(frozen=True)
class TruncatedSNR(Weighting):
    r"""The larger of the errors of x and of the noise, $w = \max(1, 1 / \mathrm{SNR})$.

    Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, section 4.
    """

    name = "truncated_snr"

    def __call__(self, gamma_t: Tensor, bound: Tensor) -> Tensor:
        return gamma_t.exp().clamp(min=1)


@dataclass(frozen=True)
class MinSNR(Weighting):
    r"""The error of x with the weight $\min(\mathrm{SNR}, k)$, hence $w = \min(1, k / \mathrm{SNR})$.

    Hang et al. 2023, https://arxiv.org/abs/2303.09556, section 3.4, who call k gamma.

    Attributes:
        most: the largest weight k.
    """

    name = "min_snr"
    most: PositiveFloat = 5.0

    def __call__(self, gamma_t: Tensor, bound: Tensor) -> Tensor:
        return (self.most * gamma_t.exp()).clamp(max=1)
