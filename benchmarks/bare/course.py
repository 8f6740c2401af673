"""A VAE as course scripts train it: torchvision's transforms for each image, a DataLoader, torch.distributions.

    python benchmarks/bare/course.py FOLDER --epochs 5 --batch 128 --latent 10

FOLDER is made by images.py. The script trains, and neither validates nor tests.
"""

import argparse

import torch
from timed import epochs
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal, kl_divergence
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


class GaussianEncoder(nn.Module):
    """q(z|x)."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Flatten(), nn.Linear(784, 512), nn.ReLU()),
            *(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 2 * latent)),
        )

    def forward(self, x: Tensor) -> Distribution:
        loc, log_scale = torch.chunk(self.net(x), 2, dim=-1)
        return Independent(Normal(loc, torch.exp(log_scale)), 1)


class BernoulliDecoder(nn.Module):
    """p(x|z)."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(latent, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()),
            *(nn.Linear(512, 784), nn.Unflatten(-1, (28, 28))),
        )

    def forward(self, z: Tensor) -> Distribution:
        return Independent(Bernoulli(logits=self.net(z)), 2)


class VAE(nn.Module):
    """The VAE with a standard normal prior."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.encoder = GaussianEncoder(latent)
        self.decoder = BernoulliDecoder(latent)
        self.mean = nn.Parameter(torch.zeros(latent), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(latent), requires_grad=False)

    def elbo(self, x: Tensor) -> Tensor:
        q = self.encoder(x)
        prior = Independent(Normal(self.mean, self.scale), 1)
        return (self.decoder(q.rsample()).log_prob(x) - kl_divergence(q, prior)).mean()


def main(root: str, number: int, batch: int, latent: int) -> None:
    torch.manual_seed(0)
    binarise = transforms.Compose(
        [transforms.ToTensor(), transforms.Lambda(lambda x: (x > 0.5).float().squeeze())]
    )
    images = datasets.FashionMNIST(root, train=True, download=False, transform=binarise)
    loader = DataLoader(images, batch_size=batch, shuffle=True)
    model = VAE(latent)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in epochs(number):
        for x, _label in loader:
            optimizer.zero_grad()
            loss = -model.elbo(x)
            loss.backward()
            optimizer.step()
        print(f"loss {loss.item():.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--latent", type=int, default=10)
    given = parser.parse_args()
    main(given.root, given.epochs, given.batch, given.latent)
