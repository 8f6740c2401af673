"""Hierarchies of binary latents, whose expectations are computed by enumeration."""

from itertools import product

import torch
from linear_gaussian import Chain, Conditional
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from latentlab.objectives import log_mean_exp


class LinearBernoulli(Conditional):
    """Independent bits with logits W x + b."""

    reparametrised = False

    def forward(self, x: Tensor) -> Independent:
        return Independent(Bernoulli(logits=self.affine(x)), 1)


class BinaryChain(Chain):
    """A chain of linear Bernoulli conditionals above a linear normal x."""

    kind = LinearBernoulli

    def all_latents(self) -> list[Tensor]:
        """All configurations of the latents, a list of layers, each (1, N, D)."""
        sizes = [q.bias.shape[-1] for q in self.q]
        bits = torch.tensor(list(product([0.0, 1.0], repeat=sum(sizes)))).double()
        return list(bits[None].split(sizes, -1))

    def exact_bound(self, x: Tensor, samples: int) -> Tensor:
        """The importance-weighted bound with `samples` draws for a single x (D,). One draw gives the ELBO."""
        zs = self.all_latents()
        trace = self(x.expand(zs[0].shape[1], -1), zs=zs)
        log_q, log_w = trace.log_qz_x[0], trace.log_w[0]  # (N,)
        tuples = torch.cartesian_prod(*[torch.arange(len(log_q))] * samples).view(-1, samples)
        return (log_q[tuples].sum(1).exp() * log_mean_exp(log_w[tuples].T)).sum()
