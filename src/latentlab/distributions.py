"""Distributions that torch lacks, or has in a form that is not accurate or not convenient enough here."""

from math import ceil, prod, sqrt
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    RelaxedOneHotCategorical,
    constraints,
    register_kl,
)
from torch.nn.functional import logsigmoid

# Below it the 0/0 of a formula is replaced by its Taylor series, of which the first term left out is under 1e-13.
SMALL = 0.1
# The log of a probability ratio that is left out of sums: under the rounding of a float64, 256 times over.
NEGLIGIBLE = 50


class OneHot(OneHotCategorical):
    r"""A categorical distribution of one-hot vectors, $\log p(z) = \sum_c z_c \log \pi_c$, (*, C).

    torch's own scores the largest entry of z alone. The sum is the same for a one-hot z, and goes on smoothly to the
    simplex, where the draws of `GumbelSoftmax` lie: a linear extension, and no density there.
    """

    support = constraints.independent(constraints.unit_interval, 1)  # type: ignore[assignment]

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) for z (*, C), (*)."""
        if self._validate_args:
            self._validate_sample(value)
        return (value * self.logits).sum(-1)


class GumbelSoftmax(OneHot):
    r"""A categorical distribution whose path is a relaxation, $z = \mathrm{softmax}((\log\pi + g) / \tau)$.

    `rsample` draws the relaxed z with g standard Gumbel (Jang et al. 2017, eq. 2; Maddison et al. 2017, section 3);
    `sample`, `log_prob`, `entropy` and the KL divergence are those of the categorical distribution itself.

    Args:
        temperature: $\tau > 0$; draws become one-hot as it goes to 0.
        logits: $\log \pi$ up to a constant, (*, C).
    """

    has_rsample = True

    def __init__(self, temperature: float, logits: Tensor, validate_args: bool | None = None) -> None:
        self.temperature = temperature
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GumbelSoftmax":
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(GumbelSoftmax, _instance)
        new.temperature = self.temperature
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Relaxed draws, on the simplex."""
        return RelaxedOneHotCategorical(
            self.logits.new_tensor(self.temperature), logits=self.logits, validate_args=False
        ).rsample(sample_shape)


class ContinuousBernoulli(Distribution):
    r"""The continuous Bernoulli by its logit, $\log p(x) = \eta x - \log\frac{e^\eta - 1}{\eta}$, x in [0, 1].

    Loaiza-Ganem and Cunningham 2019, eq. 6 and 7, with $\lambda = \sigma(\eta)$. torch's own clamps $\lambda$ to
    the float's epsilon: in float32 the normaliser, and its gradient, stop at $|\eta| = 16$, which black pixels pass.

    Args:
        logits: $\eta$, (*).
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own form)
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        r"""$E[x] = \frac12 + \frac12(\coth h - 1/h)$, $h = \eta/2$."""
        half = self.logits / 2
        square = half.square()
        series = half * (1 / 3 - square * (1 / 45 - square * (2 / 945 - square / 4725)))
        safe = torch.where(half.abs() < SMALL, SMALL, half)
        return 0.5 + 0.5 * torch.where(half.abs() < SMALL, series, 1 / safe.tanh() - 1 / safe)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) for x in [0, 1], (*)."""
        if self._validate_args:
            self._validate_sample(value)
        return self.logits * (value - 0.5) - _log_sinhc(self.logits.abs() / 2)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Draws by the inverse distribution function."""
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        rate = self.logits.abs().clamp(min=1e-6)
        falling = (-(u * torch.expm1(-rate)).log1p() / rate).clamp(max=1.0)  # its density is exp(-rate x)
        return torch.where(self.logits > 0, 1 - falling, falling)


def _log_sinhc(h: Tensor) -> Tensor:
    """log(sinh(h) / h) for h >= 0, with an accurate gradient down to h = 0."""
    square = h.square()
    series = square * (1 / 6 - square * (1 / 180 - square * (1 / 2835 - square / 37800)))
    safe = h.clamp(min=SMALL)
    return torch.where(h < SMALL, series, safe + torch.log(-torch.expm1(-2 * safe) / (2 * safe)))


class DiscretisedLogistic(Distribution):
    r"""A logistic distribution rounded to the levels $x = k / (n-1)$, the end levels taking the tails.

    $P(x) = \sigma\left(\frac{x + \delta/2 - \mu}{s}\right) - \sigma\left(\frac{x - \delta/2 - \mu}{s}\right)$,
    $\delta = 1/(n-1)$ (Salimans et al. 2017, eq. 2, with one component).

    Args:
        loc: $\mu$, in the units of x, (*).
        scale: $s > 0$, in the units of x, (*).
        levels: the number n of levels.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 (torch's own form)
    support = constraints.unit_interval

    def __init__(
        self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        r"""$E[x] = \delta \sum_{k=1}^{n-1} P(x \geq k\delta)$."""
        top = self.levels - 1
        return (
            sum((self._above((k - 0.5) / top) for k in range(1, self.levels)), torch.zeros_like(self.loc))
            / top
        )

    def _above(self, threshold: float) -> Tensor:
        return torch.sigmoid((self.loc - threshold) / self.scale)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""log P(x) for x (*) on the levels.

        $\sigma(b) - \sigma(a) = \sigma(b)\,\sigma(-a)\,(1 - e^{a-b})$, of which no factor cancels.
        """
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.levels - 1)
        below = logsigmoid((value + half - self.loc) / self.scale)
        above = logsigmoid((self.loc - value + half) / self.scale)
        inner = below + above + torch.log(-torch.expm1(-2 * half / self.scale))
        return torch.where(value < half, below, torch.where(value > 1 - half, above, inner))

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Draws of the logistic distribution, rounded to the nearest level."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
            top = self.levels - 1
            drawn = self.loc + self.scale * u.logit(eps=torch.finfo(u.dtype).tiny)
            return (drawn.clamp(0, 1) * top).round() / top


class LevelNormal(Distribution):
    r"""A normal density at the levels $x = k / (n-1)$, k = 0, ..., n - 1, renormalised, $P(x) \propto N(x; \mu, s^2)$.

    Sums run over the levels near $\mu$; those left out are less than rounding.

    Args:
        loc: $\mu$, in the units of x, (*).
        scale: $s > 0$, in the units of x.
        levels: the number n of levels.
    """

    arg_constraints = {"loc": constraints.real}  # noqa: RUF012 (torch's own form)
    support = constraints.unit_interval

    def __init__(self, loc: Tensor, scale: float, levels: int, validate_args: bool | None = None) -> None:
        self.loc = loc
        self.scale = scale
        self.top = levels - 1
        super().__init__(loc.shape, validate_args=validate_args)

    @property
    def near(self) -> tuple[Tensor, Tensor]:
        """The levels x near the mean and their unnormalised log-probabilities, both (*, n) for the n that matter.

        A level r places from the nearest has a probability of $e^{-r (r-1) / 2d^2}$ of its at most, for s of d places.
        """
        reach = min(self.top, ceil(0.5 + sqrt(0.25 + 2 * NEGLIGIBLE * (self.scale * self.top) ** 2)))
        nearest = (self.loc * self.top).round().clamp(0, self.top)
        places = nearest[..., None] + torch.arange(-reach, reach + 1, device=self.loc.device)
        x = places / self.top
        outside = (places < 0) | (places > self.top)
        return x, self._score(x, self.loc[..., None]).masked_fill(outside, -torch.inf)

    def _score(self, x: Tensor, loc: Tensor) -> Tensor:
        return -0.5 * ((x - loc) / self.scale).square()

    @property
    def mean(self) -> Tensor:
        """E[x], (*)."""
        x, logits = self.near
        return (logits.softmax(-1) * x).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) for x (*) on the levels."""
        if self._validate_args:
            self._validate_sample(value)
        return self._score(value, self.loc) - self.near[1].logsumexp(-1)

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Draws, each a level."""
        x, logits = self.near
        chosen = Categorical(logits=logits).sample(sample_shape)[..., None]
        return x.expand(*chosen.shape[:-1], -1).gather(-1, chosen)[..., 0]


class Mixture(MixtureSameFamily):
    r"""A mixture $p(z) = \sum_k \pi_k p_k(z)$ of batch shape (), scored in parts of bounded size.

    torch's own holds every component of every draw at once: 16 GB for 500 components of 40 latents, 50 draws of
    1,000 examples.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) for z (*, event), (*)."""
        score = super().log_prob
        lead = value.shape[: value.ndim - len(self.event_shape)]
        rows = max(1, 2**22 // (self._num_component * prod(self.event_shape)))
        parts = value.reshape(-1, *self.event_shape).split(rows)
        return torch.cat([score(part) for part in parts]).view(lead)


@register_kl(MultivariateNormal, Independent)
def _kl_full_rank_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    # KL(N(m, L L') || N(mu, diag s^2)), with |L^-1 ...| replaced by sums over the entries of L / s.
    if not isinstance(p.base_dist, Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError
    normal = p.base_dist
    scaled = q.scale_tril / normal.scale[..., None]
    squares = scaled.square().sum((-2, -1)) + ((q.loc - normal.loc) / normal.scale).square().sum(-1)
    log_determinant = scaled.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (squares - q.event_shape[0]) - log_determinant
