"""A denoiser of data that are -1 or 1."""

import torch
from torch import Tensor, nn


class SignDenoiser(nn.Module):
    r"""The noise in $z_t = \alpha_t x + \sigma_t \epsilon$, where every entry of x is -1 or 1.

    Given z_t, an entry has log odds $2 \alpha_t z_t / \sigma_t^2$ from its own noise, exactly, and more from all the
    others: $\hat x = \tanh(\alpha_t z_t / \sigma_t^2 + f(z_t, \gamma_t))$ with a network f, and
    $\hat\epsilon = (z_t - \alpha_t \hat x) / \sigma_t$. So the loss vanishes where there is little noise, whatever f
    is, while a network that predicts $\epsilon$ has to learn to divide by a small $\sigma_t$. With f = 0 the bound of D
    entries is that of coins tossed, $-D \log 2$.

    Args:
        network: a denoiser whose departure from z_t is taken as f, such as `unet.UNet`, which starts at zero.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        """z_t (N, *event_shape) and gamma_t (N,) -> the noise (N, *event_shape)."""
        gamma = gamma_t.view(-1, *[1] * (z_t.ndim - 1))
        alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        x_hat = torch.tanh(alpha / sigma**2 * z_t + self.network(z_t, gamma_t) - z_t)
        return (z_t - alpha * x_hat) / sigma
