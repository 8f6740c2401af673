r"""Maximum likelihood of a Gamma distribution by the gradient and by the natural gradient.

$\ell(a, b) = a \log b - \log\Gamma(a) + (a - 1)\,\overline{\log x} - b \bar x$ in nats per example, with a rate b.
"""

from collections.abc import Iterable

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from latentlab.classical.base import Inference, Numbers, Positive, check_positive, state
from latentlab.errors import UserError

PATHS = ("gradient", "natural")


def log_likelihood(theta: Tensor, mean: Tensor, mean_log: Tensor) -> Tensor:
    """The mean log-likelihood of theta = (a, b), (*, 2), in nats per example, (*)."""
    a, b = theta.unbind(-1)
    return a * b.log() - a.lgamma() + (a - 1) * mean_log - b * mean


def gradient(theta: Tensor, mean: Tensor, mean_log: Tensor) -> Tensor:
    r"""$(\log b - \psi(a) + \overline{\log x},\; a/b - \bar x)$ at theta (2,), (2,)."""
    a, b = theta
    return torch.stack([b.log() - a.digamma() + mean_log, a / b - mean])


def fisher(theta: Tensor) -> Tensor:
    r"""The Fisher matrix of an observation,
    $F = \begin{pmatrix} \psi_1(a) & -1/b \\ -1/b & a/b^2 \end{pmatrix}$, (2, 2)."""
    a, b = theta
    return torch.stack([torch.stack([a.polygamma(1), -1 / b]), torch.stack([-1 / b, a / b**2])])


def natural_gradient(theta: Tensor, mean: Tensor, mean_log: Tensor) -> Tensor:
    r"""$\tilde\nabla \ell = F^{-1} \nabla \ell$ at theta (2,), (2,) (Amari 1998)."""
    return torch.linalg.solve(fisher(theta), gradient(theta, mean, mean_log))


def maximum(mean: Tensor, mean_log: Tensor) -> Tensor:
    r"""The maximum-likelihood (a, b), (2,):
    $\log a - \psi(a) = \log\bar x - \overline{\log x}$ by Newton's method, $b = a / \bar x$.
    """
    gap = mean.log() - mean_log
    a = (3 - gap + ((gap - 3) ** 2 + 24 * gap).sqrt()) / (12 * gap)  # Minka (2002), within 1.5 %
    for _ in range(20):
        a = a - (a.log() - a.digamma() - gap) / (1 / a - a.polygamma(1))
    return torch.stack([a, a / mean])


def advance(theta: Tensor, direction: Tensor, size: float) -> Tensor:
    """theta + size * direction, with the size halved until all parameters are positive, (2,)."""
    moved = theta + size * direction
    while not (moved > 0).all():
        size /= 2
        moved = theta + size * direction
    return moved


class GammaMLE(Inference):
    """Gradient ascent and natural-gradient ascent from the same start.

    Args:
        start: the initial a and b.
        gradient_size: the step size of gradient ascent.
        natural_size: the step size of natural-gradient ascent. 1 is Fisher scoring.
        tolerance: see `Inference`.

    Raises:
        UserError: for a start or a step size that is not positive.
    """

    theta: Tensor

    def __init__(
        self,
        start: tuple[Positive, Positive] = (0.5, 8.0),
        gradient_size: Positive = 0.3,
        natural_size: Positive = 0.3,
        tolerance: NonNegativeFloat = 1e-12,
    ) -> None:
        super().__init__(tolerance)
        if len(start) != 2:
            raise UserError(f"start={list(start)} must be two numbers, a and b")
        check_positive(a=start[0], b=start[1], gradient_size=gradient_size, natural_size=natural_size)
        self.first = torch.tensor(list(start), dtype=torch.float64)
        self.gradient_size = gradient_size
        self.natural_size = natural_size
        self.register_buffer("theta", state(2, 2))

    def set_data(self, batches: Iterable[Tensor]) -> None:
        x = torch.cat([batch.double().flatten() for batch in batches]).cpu()
        if not (x.isfinite() & (x > 0)).all():
            raise UserError("the observations of a Gamma distribution must be finite and greater than 0")
        if x.min() == x.max():
            raise UserError("the observations are all equal: the likelihood has no maximum")
        self.mean, self.mean_log = x.mean(), x.log().mean()

    @property
    def num_parameters(self) -> int:
        return len(self.first)

    def start(self) -> None:
        self.theta.copy_(self.first.expand(2, 2))

    def step(self) -> None:
        plain, natural = self.theta
        g = gradient(plain, self.mean, self.mean_log)
        n = natural_gradient(natural, self.mean, self.mean_log)
        both = [advance(plain, g, self.gradient_size), advance(natural, n, self.natural_size)]
        self.theta.copy_(torch.stack(both))

    def elbo(self) -> Tensor:
        """The mean log-likelihood on the gradient's path, (). Without latents the bound is the likelihood."""
        return log_likelihood(self.theta[0], self.mean, self.mean_log)

    def monitors(self) -> dict[str, Tensor]:
        bounds = log_likelihood(self.theta, self.mean, self.mean_log)
        values = zip(PATHS, self.theta, strict=True)
        parameters = {
            f"{name}_{path}": value for path, pair in values for name, value in zip("ab", pair, strict=True)
        }
        return {"elbo": bounds[0], "elbo_natural": bounds[1], **parameters}

    def optimum(self) -> Tensor:
        """The maximum-likelihood (a, b), (2,)."""
        return maximum(self.mean, self.mean_log)

    def path(self, name: str) -> Tensor:
        """The parameters of a path by iteration, (T, 2)."""
        values = self.history.values
        return torch.tensor([values[f"a_{name}"], values[f"b_{name}"]], dtype=torch.float64).T

    def iterations_to(self, share: float) -> dict[str, int]:
        """The first iteration of each path after which both parameters stay within `share` of the optimum.

        A path that does not get there is left out.
        """
        found = {name: self._arrival(name, share) for name in PATHS}
        return {name: first for name, first in found.items() if first <= self.iterations}

    def _arrival(self, name: str, share: float) -> int:
        far = ((self.path(name) / self.optimum() - 1).abs() > share).any(1).nonzero()
        return int(far[-1]) + 1 if len(far) else 0

    def estimates(self) -> Numbers:
        """The ends of the paths, the optimum, and the iterations until both parameters are within 1 % of it."""
        optimum, history = self.optimum(), self.history.values.items()
        near = self.iterations_to(0.01).items()
        return {
            **{f"estimate/{name}": values[-1] for name, values in history if not name.startswith("elbo")},
            "exact/a": float(optimum[0]),
            "exact/b": float(optimum[1]),
            "exact/log_likelihood": float(log_likelihood(optimum, self.mean, self.mean_log)),
            **{f"estimate/iterations_to_1_percent_{name}": n for name, n in near},
        }
