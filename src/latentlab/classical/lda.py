r"""Latent Dirichlet allocation by coordinate ascent and by stochastic variational inference.

$\theta_d \sim \mathrm{Dir}(\alpha)$, $\phi_k \sim \mathrm{Dir}(\eta)$, $z_{di} \sim \mathrm{Cat}(\theta_d)$,
$w_{di} \sim \mathrm{Cat}(\phi_{z_{di}})$ for D documents, K topics and V words (Blei et al. 2003, with the smoothing of
section 5.4). The data are counts $n_{dw}$, so that all tokens of a word in a document share one q(z).
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from latentlab.classical.base import (
    Inference,
    Numbers,
    Positive,
    Size,
    Source,
    forgetting_rate,
    matched,
    state,
)
from latentlab.errors import UserError
from latentlab.protocols import Protocol

# The local updates of a document in a step of SVI stop at this mean change of gamma (Hoffman et al. 2010, algorithm 2).
SETTLED = 1e-3


def geometric_mean(concentration: Tensor) -> Tensor:
    r"""$\exp E[\log \theta]$ under Dir(concentration), for rows (*, K)."""
    return (concentration.digamma() - concentration.sum(-1, keepdim=True).digamma()).exp()


class LDA(Inference, ABC):
    r"""A factorised $q(\theta) q(\phi) q(z)$.

    $q(\theta_d) = \mathrm{Dir}(\gamma_d)$ and $q(\phi_k) = \mathrm{Dir}(\lambda_k)$. q(z) is its optimum given these,
    $r_{dwk} \propto t_{dk} p_{kw}$ with $t_d = \exp E[\log\theta_d]$ and $p_k = \exp E[\log\phi_k]$. All sums over r
    need only the matrix $s = t p$, (D, V).

    Args:
        num_topics: the number K of topics.
        alpha: the concentration of the topics of a document.
        eta: the concentration of the words of a topic.
        tolerance: see `Inference`.

    Attributes:
        lam: $\lambda$, (K, V).
        gamma: $\gamma$, (D, K).
        seconds: the time of the iterations of this process so far, one number for each.
    """

    lam: Tensor
    gamma: Tensor

    def __init__(
        self,
        num_topics: Size = 5,
        alpha: Positive = 0.5,
        eta: Positive = 0.5,
        tolerance: NonNegativeFloat = 1e-6,
    ) -> None:
        super().__init__(tolerance)
        self.num_topics, self.alpha, self.eta = num_topics, alpha, eta
        for name in ("lam", "gamma"):
            self.register_buffer(name, state(0, num_topics))
        self.seconds: list[float] = []

    def _load_from_state_dict(self, saved: dict[str, Any], prefix: str, *rest: Any) -> None:
        # The shapes are those of the corpus, which a new model does not know yet.
        for name in ("lam", "gamma"):
            if (value := saved.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(value, dtype=torch.float64))
        super()._load_from_state_dict(saved, prefix, *rest)

    def check(self, protocol: Protocol | Source) -> None:
        if not isinstance(protocol, Source) or protocol.kind != "words":
            raise UserError(
                f"{type(self).__name__} needs counts of words, not {protocol.name} data: leave out data=... for a "
                "simulated corpus, or use data=word_counts data.source.path=FILE"
            )

    def set_data(self, batches: Iterable[Tensor]) -> None:
        self.counts = torch.cat([batch.double() for batch in batches]).cpu()
        if not len(self.lam):
            self.lam = state(self.num_topics, self.counts.shape[1])
            self.gamma = state(len(self.counts), self.num_topics)

    def start(self) -> None:
        """Start each topic near the words of a random document, and each document with equal topics."""
        chosen = self.counts[torch.randint(len(self.counts), (self.num_topics,))]
        share = self.counts.sum() / self.num_topics
        noise = torch.rand(self.lam.shape, dtype=torch.float64)
        words = chosen + self.counts.sum(1).mean() * noise / noise.sum(1, keepdim=True)
        self.lam.copy_(self.eta + share * words / words.sum(1, keepdim=True))
        self.gamma.copy_(
            self.alpha + self.counts.sum(1, keepdim=True).expand_as(self.gamma) / self.num_topics
        )

    @abstractmethod
    def update(self) -> None:
        """Run one iteration."""

    def step(self) -> None:
        before = time.perf_counter()
        self.update()
        self.seconds.append((self.seconds[-1] if self.seconds else 0.0) + time.perf_counter() - before)

    def topics_of(self, counts: Tensor, gamma: Tensor) -> Tensor:
        r"""The optimal $\gamma_d = \alpha + \sum_w n_{dw} r_{dw}$ given q(z) at the old one, (D, K)."""
        t, p = geometric_mean(gamma), geometric_mean(self.lam)
        return self.alpha + t * ((counts / (t @ p)) @ p.T)

    def words_of(self, counts: Tensor, gamma: Tensor) -> Tensor:
        r"""The sums $\sum_d n_{dw} r_{dwk}$, (K, V)."""
        t, p = geometric_mean(gamma), geometric_mean(self.lam)
        return p * (t.T @ (counts / (t @ p)))

    def elbo(self) -> Tensor:
        r"""$\sum_{dw} n_{dw} \log s_{dw} - \sum_d KL(q(\theta_d) \| p) - \sum_k KL(q(\phi_k) \| p)$, in nats, ().

        It is the bound for the sequences of words (Blei et al. 2003, eq. 15) at the optimal q(z).
        """
        s = geometric_mean(self.gamma) @ geometric_mean(self.lam)
        return torch.xlogy(self.counts, s).sum() - _kl(self.gamma, self.alpha) - _kl(self.lam, self.eta)

    @property
    def topics(self) -> Tensor:
        r"""The means of $q(\phi)$, (K, V)."""
        return self.lam / self.lam.sum(1, keepdim=True)

    def estimates(self) -> Numbers:
        """The share of each topic in the corpus, the largest first, and the seconds of an iteration."""
        share = (self.gamma / self.gamma.sum(1, keepdim=True) * self.counts.sum(1, keepdim=True)).sum(0)
        shares = (share / share.sum()).sort(descending=True).values
        named = {f"estimate/topic_share_{k + 1}": float(value) for k, value in enumerate(shares)}
        per_iteration = (
            {"estimate/seconds_per_iteration": self.seconds[-1] / len(self.seconds)} if self.seconds else {}
        )
        return named | per_iteration

    def errors(self, truth: Mapping[str, Tensor]) -> Numbers:
        """The total variation distance of each topic from the true one, in the best order: mean and largest."""
        if len(truth["topics"]) != self.num_topics:
            return {}
        distances = 0.5 * torch.cdist(truth["topics"], self.topics, p=1)
        found = distances.gather(1, matched(distances)[:, None])
        return {"error/topic": float(found.mean()), "error/topic_largest": float(found.max())}


def _kl(concentration: Tensor, prior: float) -> Tensor:
    return kl_divergence(Dirichlet(concentration), Dirichlet(torch.full_like(concentration, prior))).sum()


class CAVILDA(LDA):
    """Coordinate ascent: the topics of all documents, then the words of all topics (Blei et al. 2003, section 5)."""

    def update(self) -> None:
        self.gamma.copy_(self.topics_of(self.counts, self.gamma))
        self.lam.copy_(self.eta + self.words_of(self.counts, self.gamma))


class SVILDA(LDA):
    r"""Natural-gradient steps from batches of documents (Hoffman et al. 2013, figure 6).

    An iteration is a pass over all documents.
    $\lambda \leftarrow (1 - \rho_t) \lambda + \rho_t \hat\lambda$ with
    $\hat\lambda = \eta + \frac{D}{B} \sum_{d} n_{dw} r_{dwk}$ over a batch of B documents, and
    $\rho_t = (t + \tau)^{-\kappa}$ for t = 1, 2, ... (eq. 26).

    Args:
        batch_size: B.
        delay: $\tau$.
        forgetting: $\kappa$, in (0.5, 1].
        local_steps: the most updates of the topics of a document in a step.
        options: the arguments of `LDA`.
    """

    count: Tensor

    def __init__(
        self,
        num_topics: Size = 5,
        alpha: Positive = 0.5,
        eta: Positive = 0.5,
        tolerance: NonNegativeFloat = 1e-6,
        batch_size: PositiveInt = 100,
        delay: NonNegativeFloat = 1.0,
        forgetting: Annotated[float, Field(gt=0.5, le=1)] = 0.7,
        local_steps: PositiveInt = 50,
    ) -> None:
        super().__init__(num_topics, alpha, eta, tolerance)
        self.batch_size, self.delay, self.forgetting = batch_size, delay, forgetting
        self.local_steps = local_steps
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def update(self) -> None:
        for rows in torch.randperm(len(self.counts)).split(self.batch_size):
            self._learn(rows)

    def _learn(self, rows: Tensor) -> None:
        counts, gamma = self.counts[rows], self.gamma[rows]
        for _ in range(self.local_steps):
            before, gamma = gamma, self.topics_of(counts, gamma)
            if (gamma - before).abs().mean() < SETTLED:
                break
        self.gamma[rows] = gamma
        optimum = self.eta + len(self.counts) / len(rows) * self.words_of(counts, gamma)
        self.count += 1
        self.lam.lerp_(optimum, forgetting_rate(self.count, self.delay, self.forgetting))
