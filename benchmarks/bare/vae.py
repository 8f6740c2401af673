"""A bare training loop of the VAE 784-512-512-2M: plain tensors, no loader, no distributions, no Lightning.

    python benchmarks/bare/vae.py FOLDER --epochs 5 --batch 128 --latent 10

FOLDER is made by images.py.
"""

import argparse

import torch
from images import read
from timed import epochs
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits


def mlp(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, width_out)
    )


def main(root: str, number: int, batch: int, latent: int) -> None:
    torch.manual_seed(0)
    encoder, decoder = mlp(784, 2 * latent), mlp(latent, 784)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=True)
    pixels = torch.from_numpy(read(root)).flatten(1)
    for _ in epochs(number):
        for index in torch.randperm(len(pixels)).split(batch):
            x = (pixels[index] > 127).float()
            loc, log_scale = encoder(x).chunk(2, 1)
            logits = decoder(loc + log_scale.exp() * torch.randn_like(loc))
            minus_log_px_z = binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
            kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1)
            loss = (minus_log_px_z + kl).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--latent", type=int, default=10)
    given = parser.parse_args()
    main(given.root, given.epochs, given.batch, given.latent)
