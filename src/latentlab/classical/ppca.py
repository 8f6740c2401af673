r"""Probabilistic PCA (Tipping and Bishop 1999).

$z \sim N(0, I_q)$, $x | z \sim N(Wz + b, s^2 I_D)$, $C = WW^\top + s^2 I$.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import log, pi, prod

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from latentlab.classical.base import Inference, Numbers, Source, state
from latentlab.errors import UserError
from latentlab.models.base import GenerativeModel
from latentlab.protocols import Protocol
from latentlab.trace import Layer, Trace, sample

# One product of many rows is much faster than many products of few rows.
ROWS = 4096


def moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor, int]:
    """The mean (D,), the covariance (D, D) with divisor n, and the number n of the examples in batches (B, ...).

    The batches are read once. All sums are in float64.
    """
    total, products, n = torch.zeros(1).double(), torch.zeros(1, 1).double(), 0
    for x in _large(batches):
        total, products, n = total.to(x) + x.sum(0), products.to(x) + x.T @ x, n + len(x)
    mean = total / n
    return mean, products / n - mean[:, None] * mean, n


def _large(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    waiting: list[Tensor] = []
    for batch in batches:
        waiting.append(batch.flatten(1))
        if sum(map(len, waiting)) >= ROWS:
            yield torch.cat(waiting).double()
            waiting = []
    if waiting:
        yield torch.cat(waiting).double()


def closed_form(cov: Tensor, q: int) -> tuple[Tensor, Tensor]:
    r"""The maximum-likelihood W (D, q) and $s^2$ () for a covariance (D, D) (Tipping and Bishop 1999, eq. 7-8).

    $s^2 = \frac{1}{D-q}\sum_{i>q} \lambda_i$, $W = U_q (\Lambda_q - s^2 I)^{1/2}$ with the rotation I.
    """
    values, vectors = torch.linalg.eigh(cov)  # ascending
    noise = values[:-q].clamp(min=0).mean()
    return vectors[:, -q:].flip(1) * (values[-q:].flip(0) - noise).clamp(min=0).sqrt(), noise


def em_step(cov: Tensor, w: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    r"""One step of EM on W (D, q) and $s^2$ () (Tipping and Bishop 1999, eq. 29-30).

    $W' = SW (s^2 I + M^{-1} W^\top S W)^{-1}$, $s^{2\prime} = \frac1D \mathrm{tr}(S - SW M^{-1} W'^\top)$,
    $M = W^\top W + s^2 I$
    """
    eye = torch.eye(w.shape[1]).to(w)
    inverse = torch.linalg.inv(w.T @ w + noise * eye)
    projected = cov @ w  # (D, q)
    new = torch.linalg.solve(noise * eye + inverse @ w.T @ projected, projected, left=False)
    return new, (cov.trace() - ((projected @ inverse) * new).sum()) / len(cov)


def log_likelihood(cov: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    r"""The mean log-likelihood at b = mean, nats per example, ().

    $-\frac12 (D \log 2\pi + \log|C| + \mathrm{tr}\,C^{-1}S)$

    $|C| = s^{2(D-q)} |M|$ and $C^{-1} = s^{-2}(I - W M^{-1} W^\top)$ need only a q x q solve.
    """
    d, q = w.shape
    m = w.T @ w + noise * torch.eye(q).to(w)
    trace = (cov.trace() - torch.linalg.solve(m, w.T @ cov @ w).trace()) / noise
    return -0.5 * (d * log(2 * pi) + (d - q) * noise.log() + m.logdet() + trace)


class PPCA(Inference, GenerativeModel):
    """Probabilistic PCA by maximum likelihood, in closed form or by EM.

    The posterior q(z|x) = p(z|x) is exact, so the bound `elbo` is the log-likelihood.

    Args:
        latent_dim: the number q of latents, less than the number of pixels.
        em: True to iterate EM from a random start, False for the closed form in one step.
        x_shape: the shape of one example.
        tolerance: see `Inference`.

    Raises:
        UserError: unless there are fewer latents than pixels.
    """

    w: Tensor
    b: Tensor
    noise: Tensor

    def __init__(
        self,
        latent_dim: PositiveInt = 10,
        em: bool = False,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
        tolerance: NonNegativeFloat = 1e-9,
    ) -> None:
        super().__init__(tolerance)
        size = prod(x_shape)
        if not 0 < latent_dim < size:
            raise UserError(
                f"latent_dim={latent_dim} must be less than the {size} pixels of an image and at least 1"
            )
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.em = em
        self.register_buffer("w", state(size, latent_dim))
        self.register_buffer("b", state(size))
        self.register_buffer("noise", state())

    def set_data(self, batches: Iterable[Tensor]) -> None:
        self.mean, self.cov, self.n = moments(batches)
        rank = int(torch.linalg.matrix_rank(self.cov, hermitian=True))
        if rank <= self.latent_dim:
            raise UserError(
                f"latent_dim={self.latent_dim} must be less than {rank}, the rank of the data's covariance"
            )
        self.optimum = closed_form(self.cov, self.latent_dim)

    def start(self) -> None:
        """Start at the mean, with small random loadings and the mean variance as noise."""
        self.b.copy_(self.mean)
        self.noise.copy_(self.cov.trace() / len(self.cov))
        self.w.copy_(torch.randn_like(self.w) * self.noise.sqrt() * 0.1)

    def step(self) -> None:
        w, noise = em_step(self.cov, self.w, self.noise) if self.em else self.optimum
        self.w.copy_(w)
        self.noise.copy_(noise)

    def elbo(self) -> Tensor:
        """The log-likelihood, in nats per training example, ()."""
        return log_likelihood(self.cov, self.w, self.noise)

    def exact_log_likelihood(self) -> Tensor:
        """The maximum of the log-likelihood, in nats per training example, ()."""
        return log_likelihood(self.cov, *self.optimum)

    def monitors(self) -> dict[str, Tensor]:
        return {"elbo": self.elbo(), "noise": self.noise}

    def estimates(self) -> Numbers:
        return {
            "estimate/noise": float(self.noise),
            "exact/train_elbo": float(self.exact_log_likelihood()),
            "exact/noise": float(self.optimum[1]),
        }

    def forward(self, x: Tensor, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        """The trace of x (B, *x_shape) under the exact posterior. log w is log p(x) for every draw."""
        q = self.posterior(x)
        z = sample(q, samples) if zs is None else zs[0]  # (K, B, q)
        px = self.likelihood(z)
        return Trace([Layer.scored(z, q, self.prior())], px, px.log_prob(x.double()))

    def prior(self) -> Independent:
        """p(z) = N(0, I)."""
        return Independent(Normal(torch.zeros_like(self.w[0]), 1.0), 1)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        r"""$p(z|x) = N(M^{-1} W^\top (x - b), s^2 M^{-1})$, batch shape (B,)."""
        inverse = torch.linalg.inv(self._m())
        mean = (x.flatten(1).double() - self.b) @ self.w @ inverse
        return MultivariateNormal(mean, self.noise * inverse)

    def likelihood(self, z: Tensor) -> Independent:
        """p(x|z) for z (*, q)."""
        mean = (z.double() @ self.w.T + self.b).unflatten(-1, self.x_shape)
        return Independent(Normal(mean, self.noise.sqrt()), len(self.x_shape))

    def terms(self, x: Tensor, samples: int = 1) -> dict[str, Tensor]:
        """The exact log-likelihood as `elbo`, and its parts under the exact posterior, (B,)."""
        q = self.posterior(x)
        residual = x.flatten(1).double() - self.b
        quadratic = ((residual**2).sum(-1) - ((residual @ self.w) * q.mean).sum(-1)) / self.noise
        d = len(self.b)
        logdet = (d - self.latent_dim) * self.noise.log() + self._m().logdet()
        elbo = -0.5 * (d * log(2 * pi) + logdet + quadratic)
        kl = kl_divergence(q, self.prior())
        return {"elbo": elbo, "reconstruction": elbo + kl, "kl": kl}

    def generate(self, n: int, mean: bool = False) -> Tensor:
        px = self.likelihood(torch.randn(n, self.latent_dim, dtype=self.w.dtype, device=self.w.device))
        return (px.mean if mean else px.sample()).float()

    def encode(self, x: Tensor) -> Tensor:
        return sample(self.posterior(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.likelihood(z).mean.float()

    def posterior_mean(self, x: Tensor) -> Tensor:
        return self.posterior(x).mean

    def check(self, protocol: Protocol | Source) -> None:
        if isinstance(protocol, Source):
            raise UserError(f"model=ppca needs images, not {protocol.name} data: try data=continuous_digits")
        if protocol.levels is not None:
            raise UserError(
                f"model=ppca has a Gaussian density, but protocol={protocol.name} gives discrete values: "
                "use protocol=continuous or protocol=dequantised"
            )

    def _m(self) -> Tensor:
        return self.w.T @ self.w + self.noise * torch.eye(self.latent_dim).to(self.w)
