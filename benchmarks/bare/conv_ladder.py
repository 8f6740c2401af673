"""A bare training loop of the convolutional ladder VAE, with the networks of latentlab.

    python benchmarks/bare/conv_ladder.py FOLDER --epochs 2 --batch 32

FOLDER is made by images.py.
"""

import argparse
from math import e, log

import torch
from images import read
from timed import epochs
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from latentlab.nn.conv_ladder import ConvHead, ConvRungs

UNIT, LEAST = log(e - 1), 0.01


class Ladder(nn.Module):
    """The networks of conv_ladder_vae, with its bound."""

    def __init__(self) -> None:
        super().__init__()
        made = ConvRungs((1, 28, 28), layers=(0, 1, 2), latent_channels=4, width=16, blocks=1)
        layers = range(1, len(made.z_shapes) + 1)
        self.up = nn.ModuleList(made.up(layer) for layer in layers)
        self.down = nn.ModuleList(made.down(layer) for layer in layers)
        self.expectation = nn.ModuleList(made.expectation(layer) for layer in layers[:-1])
        self.evidence = nn.ModuleList(made.evidence(layer) for layer in layers[:-1])
        self.top = made.head(made.d_shapes[-1], (2, *made.z_shapes[-1]))
        self.decoder = ConvHead(made.h_shape, (1, 28, 28))

    def forward(self, x: Tensor, beta: float) -> Tensor:
        """The loss of images x (B, 1, 28, 28), with the weight beta on the KL, (B,)."""
        ds = [x]
        for network in self.up:
            ds.append(network(ds[-1]))
        loc, log_scale = self.top(ds[-1]).unbind(1)
        kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1)
        h = self.down[-1](x.new_zeros(()), loc + log_scale.exp() * torch.randn_like(loc))
        for level in reversed(range(len(self.expectation))):
            loc_p, scale_p = normal(self.expectation[level](h))
            loc_x, scale_x = normal(self.evidence[level](ds[level + 1], h))
            total = scale_p**2 + scale_x**2
            loc = loc_p + (loc_x - loc_p) * scale_p**2 / total
            scale = scale_p * scale_x / total.sqrt()
            ratio = (scale / scale_p) ** 2
            kl = kl + 0.5 * (ratio + ((loc - loc_p) / scale_p) ** 2 - 1 - ratio.log()).flatten(1).sum(1)
            h = self.down[level](h, loc + scale * torch.randn_like(loc))
        logits = self.decoder(h)
        return binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1) + beta * kl


def normal(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation in a network's output (B, 2, ...)."""
    loc, raw = parameters.unbind(1)
    return loc, LEAST + softplus(raw + UNIT)


def main(root: str, number: int, batch: int) -> None:
    torch.manual_seed(0)
    model = Ladder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    pixels = torch.from_numpy(read(root)).unsqueeze(1)
    step, warmup = 0, 10 * len(pixels) / batch
    for _ in epochs(number):
        for index in torch.randperm(len(pixels)).split(batch):
            loss = model((pixels[index] > 127).float(), min(1.0, step / warmup)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    main(given.root, given.epochs, given.batch)
