r"""A diffusion and its bound: a Markovian hierarchy whose inference chain is fixed.

Data x (N, *event_shape) are noised to $q(z_t|x) = N(\alpha_t x, \sigma_t^2 I)$ at times t in [0, 1] (`schedules`).
With a denoiser $\hat\epsilon(z_t; \gamma_t)$, the model runs back from $p(z_1) = N(0, I)$ by
$p(z_s|z_t) = q(z_s|z_t, x = \hat x(z_t))$, s < t (Kingma et al. 2021, https://arxiv.org/abs/2107.00630).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn.functional import softplus

from latentlab.errors import UserError
from latentlab.nn import Shape, full_precision
from latentlab.schedules import NoiseSchedule, alpha, sigma

# denoiser(event_shape, gamma_min=..., gamma_max=...): a module that is called with z_t (N, *event_shape) and gamma_t
# (N,), in nats as it is, and returns eps_hat (N, *event_shape). It scales gamma_t to the range it was told itself.
DenoiserFactory = Callable[..., nn.Module]


class Draws(NamedTuple):
    """What the diffusion's loss is estimated with: u in (0, 1], (N,), and standard normal eps (N, *event_shape)."""

    u: Tensor
    eps: Tensor


class Diffusion(nn.Module):
    r"""A diffusion of tensors of `event_shape`, and the terms of its bound that do not depend on p(x|z_0).

    $\log p(x) \ge E[\log p(x|z_0)] - KL(q(z_1|x)\,\|\,N(0, I)) - L_T$ (Kingma et al. 2021, eq. 11); the last two are
    `prior_kl` and `loss`. Forms with T steps move along the grid i / T.

    Args:
        event_shape: the shape of one x.
        schedule: gamma(t).
        denoiser: makes the network by `denoiser(event_shape, gamma_min=..., gamma_max=...)`, a module called as
            `denoiser(z_t, gamma_t)` with z_t (N, *event_shape) and gamma_t (N,), in nats as it is, that returns
            eps_hat (N, *event_shape). It scales gamma_t to the range it was told itself.
    """

    origin: Tensor

    def __init__(self, event_shape: Shape, schedule: NoiseSchedule, denoiser: DenoiserFactory) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.schedule = schedule
        self.register_buffer("origin", torch.zeros(()), persistent=False)  # knows the dtype and the device
        self.denoiser = denoiser(self.event_shape, gamma_min=schedule.gamma_min, gamma_max=schedule.gamma_max)

    def noised(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        r"""$z_t = \alpha_t x + \sigma_t \epsilon$ for x and eps (N, *event_shape) and times t (N,)."""
        return self._mix(x, self.schedule(t).gamma, eps)

    def predict(self, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        """eps_hat for z_t (N, *event_shape) and gamma_t (N,), in full precision."""
        return full_precision(self.denoiser(z_t, gamma_t))

    def prior_kl(self, x: Tensor) -> Tensor:
        r"""$KL(q(z_1|x)\,\|\,N(0, I)) = \frac12 \sum_d [\alpha_1^2 (x_d^2 - 1) - \log \sigma_1^2]$, (N,), in nats."""
        gamma = x.new_tensor(self.schedule.gamma_max)
        return 0.5 * (alpha(gamma) ** 2 * (x**2 - 1) + softplus(-gamma)).flatten(1).sum(1)

    def times(self, n: int, samples: int = 1) -> Tensor:
        """Times in (0, 1], spread evenly from one random start (appendix I.1), (samples, n); those of each n as well.

        Means over them vary less than over independent times; each one is uniform still.
        """
        start = torch.rand(1, dtype=self.origin.dtype, device=self.origin.device)
        order = torch.arange(samples * n, device=start.device).view(samples, n)
        return 1 - (start + order / (samples * n)) % 1

    def draw(self, x: Tensor) -> Draws:
        """Draws for x (N, *event_shape), with `times` for u."""
        return Draws(self.times(len(x))[0], torch.randn_like(x))

    def loss(self, x: Tensor, steps: int | None = None, draws: Draws | None = None) -> Tensor:
        r"""An unbiased estimate of $L_T$ of T = `steps`, or of its limit for None, with one time for each x, (N,).

        Forms of several T that are given the same `draws` share their noise, and u up to the grid.
        """
        u, eps = self.draw(x) if draws is None else draws
        return self.loss_at(x, u if steps is None else (u * steps).ceil() / steps, steps, eps)

    def loss_at(self, x: Tensor, t: Tensor, steps: int | None = None, eps: Tensor | None = None) -> Tensor:
        r"""The estimate of `loss` by given times t (N,), which are i / T, i = 1, ..., T, where there are steps, (N,).

        $\frac{T}{2} \mathrm{expm1}(\gamma(t) - \gamma(t - 1/T)) |\epsilon - \hat\epsilon|^2$ (eq. 14), or
        $\frac12 \gamma'(t) |\epsilon - \hat\epsilon|^2$ (eq. 17). $L_T$ is its mean over uniform t and over eps,
        which is drawn where it is not given.

        The limit does not depend on the schedule between its end points (section 5.1), so that its gradient there is
        noise. A schedule that learns gets the gradient of its square instead, see `_of_square`.
        """
        eps = torch.randn_like(x) if eps is None else eps
        gamma_t, slope = self.schedule(t)
        error = (eps - self.predict(self._mix(x, gamma_t, eps), gamma_t)).square().flatten(1).sum(1)
        if steps is None:
            return _of_square(0.5 * slope * error, (gamma_t, slope), scale=x[0].numel())
        gamma_s = self.schedule((t - 1 / steps).clamp(min=0)).gamma
        return 0.5 * steps * torch.expm1(gamma_t - gamma_s) * error

    def reverse(self, z_t: Tensor, t: Tensor, s: Tensor) -> Independent:
        r"""p(z_s|z_t) for times s < t (N,), batch shape (N,), by which the bound of T steps and sampling go back.

        With $c = -\mathrm{expm1}(\gamma_s - \gamma_t)$, mean
        $\frac{\alpha_s}{\alpha_t} (z_t - c \sigma_t \hat\epsilon)$ and variance $c \sigma_s^2$ (section 3.3).
        """
        gamma_t, gamma_s = self.schedule(t).gamma, self.schedule(s).gamma
        c = -torch.expm1(gamma_s - gamma_t)
        eps_hat = self.predict(z_t, gamma_t)
        mean = self._each(alpha(gamma_s) / alpha(gamma_t)) * (z_t - self._each(c * sigma(gamma_t)) * eps_hat)
        scale = self._each(c.sqrt() * sigma(gamma_s)).expand_as(mean)
        return Independent(Normal(mean, scale), len(self.event_shape))

    def path(self, n: int, steps: int) -> Iterator[Tensor]:
        """n ancestral draws of z_1, z_{1 - 1/T}, ..., z_0 with T = `steps`: T + 1 tensors (n, *event_shape).

        Raises:
            UserError: for less than one step.
        """
        if steps < 1:
            raise UserError(f"steps={steps}: a path takes one step at least")
        z = torch.randn(n, *self.event_shape, dtype=self.origin.dtype, device=self.origin.device)
        yield z
        for step in range(steps, 0, -1):
            t, s = (z.new_full((n,), i / steps) for i in (step, step - 1))
            z = self.reverse(z, t, s).sample()
            yield z

    def sample(self, n: int, steps: int) -> Tensor:
        """The end z_0 of n paths of `steps` steps, (n, *event_shape)."""
        return deque(self.path(n, steps), maxlen=1).pop()

    def _mix(self, x: Tensor, gamma: Tensor, eps: Tensor) -> Tensor:
        return self._each(alpha(gamma)) * x + self._each(sigma(gamma)) * eps

    def _each(self, values: Tensor) -> Tensor:
        """Values of (N,) as factors of (N, *event_shape)."""
        return values.view(-1, *[1] * len(self.event_shape))


def _of_square(loss: Tensor, sources: Iterable[Tensor], scale: float) -> Tensor:
    r"""The loss L (N,), through which `sources` get the gradient of its square, $\frac{2 L}{\mathrm{scale}} \nabla L$.

    Where the mean of L does not depend on them, they are trained for a small variance of L (Kingma et al. 2021,
    appendix I.2). What the sources were computed from gets it too; every other gradient stays as it is.
    """
    weight = 2 * loss.detach() / scale
    for source in sources:
        if source.requires_grad:
            source.register_hook(lambda gradient: gradient * weight)
    return loss
