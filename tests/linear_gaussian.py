"""Chains of conditionals, and the linear-Gaussian chain with its bound and likelihood in closed form.

A chain is p(z_L) ... p(z_1|z_2) p(x|z_1) with q(z_1|x) q(z_2|z_1) ..., for any L. Its parameters may have a leading
dimension N, one set for each example. One backward pass then gives N independent draws of a gradient.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from latentlab.trace import Layer, Trace, Traced, draw


class Conditional(nn.Module):
    """A density p(y|x) whose parameters are affine in x (..., D'). Without an input (D' = 0) it is p(y)."""

    reparametrised = True

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.7 * torch.randn(out_size, in_size).double())
        self.bias = nn.Parameter(0.5 * torch.randn(out_size).double())

    def affine(self, x: Tensor) -> Tensor:
        return (self.weight @ x[..., None]).squeeze(-1) + self.bias

    def forward(self, x: Tensor) -> Distribution:
        raise NotImplementedError


class LinearNormal(Conditional):
    """The density N(y; W x + b, C C'). C is lower triangular, and its diagonal is the exponential of `raw`'s."""

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__(in_size, out_size)
        self.raw = nn.Parameter(0.3 * torch.randn(out_size, out_size).double())

    @property
    def tril(self) -> Tensor:
        return self.raw.tril(-1) + torch.diag_embed(self.raw.diagonal(dim1=-2, dim2=-1).exp())

    @property
    def covariance(self) -> Tensor:
        return self.tril @ self.tril.mT

    def forward(self, x: Tensor) -> MultivariateNormal:
        return MultivariateNormal(self.affine(x), scale_tril=self.tril)

    @torch.no_grad()
    def assign(self, weight: Tensor, bias: Tensor, covariance: Tensor) -> None:
        tril = torch.linalg.cholesky(covariance)
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.raw.copy_(tril.tril(-1) + tril.diagonal().log().diag())

    def expected_log_prob(
        self, mean_y: Tensor, cov_y: Tensor, cov_yx: Tensor, mean_x: Tensor, cov_x: Tensor
    ) -> Tensor:
        """E[log p(y|x)] for jointly normal y and x."""
        residual = mean_y - self.affine(mean_x)
        cross = cov_yx @ self.weight.mT
        spread = (
            cov_y - cross - cross.mT + self.weight @ cov_x @ self.weight.mT + torch.outer(residual, residual)
        )
        quadratic = torch.linalg.solve(self.covariance, spread).diagonal().sum()
        return -0.5 * (quadratic + torch.logdet(2 * torch.pi * self.covariance))


class Chain(Traced):
    """The chain of conditionals of the given sizes: of x, z_1, ..., z_L."""

    kind: type[Conditional] = LinearNormal
    x_kind: type[Conditional] = LinearNormal

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        kinds = [self.x_kind, *[self.kind] * (len(sizes) - 1)]
        above = [*sizes[1:], 0]
        self.p = nn.ModuleList(kind(up, down) for kind, up, down in zip(kinds, above, sizes, strict=True))
        self.q = nn.ModuleList(self.kind(down, up) for down, up in pairwise(sizes))

    @property
    def reparametrised(self) -> bool:
        return self.kind.reparametrised

    @property
    def discrete(self) -> bool:
        return not self.kind.reparametrised

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        return self.q.parameters()

    def forward(self, x: Tensor, samples: int = 1, zs: Sequence[Tensor] | None = None) -> Trace:
        """The trace of x (B, D)."""
        qs, drawn = [], []
        below = x.expand(samples, *x.shape)  # (K, B, D)
        for level, conditional in enumerate(self.q):
            qs.append(conditional(below))
            below = draw(qs[-1], 1)[0] if zs is None else zs[level]
            drawn.append(below)
        nothing = below[..., :0]
        ps = [conditional(z) for conditional, z in zip(self.p, [*drawn, nothing], strict=True)]
        layers = [
            Layer.scored(z, q, p, coupled=level < len(qs))
            for level, (z, q, p) in enumerate(zip(drawn, qs, ps[1:], strict=True), start=1)
        ]
        return Trace(layers, ps[0], ps[0].log_prob(x))

    def repeated(self, n: int) -> "Chain":
        """A copy with n sets of these parameters, one for each example of a batch."""
        copy = deepcopy(self)
        for module in copy.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach().expand(n, *parameter.shape).clone()))
        return copy


class LinearGaussian(Chain):
    """The chain of linear normals."""

    @property
    def levels(self) -> int:
        return len(self.q)

    def prior_moments(self) -> list[tuple[Tensor, Tensor]]:
        """The means and covariances of x, z_1, ..., z_L under p."""
        top = self.p[-1]
        moments = [(top.bias, top.covariance)]
        for conditional in reversed(self.p[:-1]):
            mean, covariance = moments[0]
            spread = conditional.weight @ covariance @ conditional.weight.mT
            moments.insert(0, (conditional.affine(mean), spread + conditional.covariance))
        return moments

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) for x (B, D), (B,)."""
        mean, covariance = self.prior_moments()[0]
        return MultivariateNormal(mean, covariance).log_prob(x)

    def make_posterior_exact(self) -> None:
        """Set q to the posterior p(z_1|x) p(z_2|z_1) ..., since the layers are a Markov chain."""
        for p, q, (m, S), (m_below, S_below) in zip(
            self.p[:-1], self.q, self.prior_moments()[1:], self.prior_moments()[:-1], strict=True
        ):
            gain = torch.linalg.solve(S_below, p.weight @ S).mT
            covariance = S - gain @ p.weight @ S
            q.assign(gain, m - gain @ m_below, (covariance + covariance.mT) / 2)

    def exact_terms(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """E_q[log p(x|z)] and the layers' E_q[log q - log p], for a single x (D,)."""
        means, covariances, crosses = [x], [torch.zeros(len(x), len(x)).double()], []
        for q in self.q:
            crosses.append(covariances[-1] @ q.weight.mT)  # Cov(below, above)
            means.append(q.affine(means[-1]))
            covariances.append(q.weight @ crosses[-1] + q.covariance)
        nothing = torch.zeros(0).double()
        means.append(nothing)
        covariances.append(nothing[:, None] @ nothing[None])
        crosses.append(torch.zeros(len(means[-2]), 0).double())
        log_ps = [
            p.expected_log_prob(means[i], covariances[i], crosses[i], means[i + 1], covariances[i + 1])
            for i, p in enumerate(self.p)
        ]
        entropies = [0.5 * torch.logdet(2 * torch.pi * torch.e * q.covariance) for q in self.q]
        return log_ps[0], [-h - log_p for h, log_p in zip(entropies, log_ps[1:], strict=True)]

    def exact_elbo(self, x: Tensor) -> Tensor:
        """The ELBO of a single x (D,)."""
        reconstruction, kls = self.exact_terms(x)
        return reconstruction - torch.stack(kls).sum()

    def at_noise(self, x: Tensor, noises: Sequence[Tensor]) -> list[Tensor]:
        """The latents z ~ q(z|x) for the given standard normals, each (K, B, D), with their gradient paths."""
        zs, below = [], x
        for q, noise in zip(self.q, noises, strict=True):
            below = q.affine(below) + (q.tril @ noise[..., None]).squeeze(-1)
            zs.append(below)
        return zs
