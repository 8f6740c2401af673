"""Hierarchies of binary latents, with every expectation by enumeration."""

from itertools import product

import torch
from linear_gaussian import Chain, Conditional
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from latentlab.objectives import log_mean_exp


class LinearBernoulli(Conditional):
    """Independent bits with the logits W x + b."""

    reparametrised = False

    def forward(self, x: Tensor) -> Independent:
        return Independent(Bernoulli(logits=self.affine(x)), 1)


class BinaryChain(Chain):
    """The chain of linear Bernoullis, over x linear normal."""

    kind = LinearBernoulli

    def all_latents(self) -> list[Tensor]:
        """Every configuration of the latents, layer by layer, each (1, N, D)."""
        sizes = [q.bias.shape[-1] for q in self.q]
        bits = torch.tensor(list(product([0.0, 1.0], repeat=sum(sizes)))).double()
        return list(bits[None].split(sizes, -1))

    def exact_bound(self, x: Tensor, samples: int) -> Tensor:
        """E[log of the mean of `samples` weights] for a single x (D,); one sample gives the ELBO."""
        zs = self.all_latents()
        trace = self(x.expand(zs[0].shape[1], -1), zs=zs)
        log_q, log_w = trace.log_qz_x[0], trace.log_w[0]  # (N,)
        tuples = torch.cartesian_prod(*[torch.arange(len(log_q))] * samples).view(-1, samples)
        return (log_q[tuples].sum(1).exp() * log_mean_exp(log_w[tuples].T)).sum()
