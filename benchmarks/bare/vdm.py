"""A bare training loop of the variational diffusion model of binary images, with the U-Net of latentlab.

    python benchmarks/bare/vdm.py FOLDER --epochs 2 --batch 32

FOLDER is made by images.py. The bound is that of Kingma et al. 2021 with infinitely many steps and a linear schedule.
"""

import argparse

import torch
from images import read
from timed import epochs
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from latentlab.nn.unet import UNet

FIRST, LAST = -4.0, 5.0  # gamma(0) and gamma(1)


def alpha(gamma: Tensor) -> Tensor:
    return torch.sigmoid(-gamma).sqrt()


def sigma(gamma: Tensor) -> Tensor:
    return torch.sigmoid(gamma).sqrt()


def bound(network: UNet, x: Tensor) -> Tensor:
    """The bound for images x (B, 1, 28, 28), (B,)."""
    data = 2 * x - 1
    with torch.no_grad():  # these two terms have no parameters
        first, last = x.new_tensor(FIRST), x.new_tensor(LAST)
        z_0 = alpha(first) * data + sigma(first) * torch.randn_like(data)
        reconstruction = logsigmoid(data * 2 * alpha(first) / sigma(first) ** 2 * z_0).flatten(1).sum(1)
        kl_prior = 0.5 * (alpha(last) ** 2 * (data**2 - 1) + softplus(-last)).flatten(1).sum(1)
    t = 1 - (torch.rand(1) + torch.arange(len(x)) / len(x)) % 1
    gamma_t, eps = FIRST + (LAST - FIRST) * t, torch.randn_like(data)
    alpha_t, sigma_t = alpha(gamma_t)[:, None, None, None], sigma(gamma_t)[:, None, None, None]
    z_t = alpha_t * data + sigma_t * eps
    x_hat = torch.tanh(alpha_t / sigma_t**2 * z_t + network(z_t, gamma_t))
    eps_hat = (z_t - alpha_t * x_hat) / sigma_t
    loss = 0.5 * (LAST - FIRST) * (eps - eps_hat).square().flatten(1).sum(1)
    return reconstruction - kl_prior - loss


def main(root: str, number: int, batch: int) -> None:
    torch.manual_seed(0)
    network = UNet((1, 28, 28), FIRST, LAST)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    pixels = torch.from_numpy(read(root)).unsqueeze(1)
    for _ in epochs(number):
        for index in torch.randperm(len(pixels)).split(batch):
            loss = -bound(network, (pixels[index] > 127).float()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    main(given.root, given.epochs, given.batch)
