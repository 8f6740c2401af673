r"""A diffusion: a Markovian hierarchy with a fixed inference chain, its bound and its samples.

Inference adds noise to data x (N, *event_shape): $q(z_t|x) = N(\alpha_t x, \sigma_t^2 I)$ at times t in [0, 1], see
`schedules`. A denoiser predicts the noise as $\hat\epsilon(z_t; \gamma_t)$. The model starts from $p(z_1) = N(0, I)$
and goes back by $p(z_s|z_t) = q(z_s|z_t, x = \hat x(z_t))$, s < t (Kingma et al. 2021, https://arxiv.org/abs/2107.00630).
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Independent
from torch.nn.functional import softplus

from latentlab.draws import each_block, normal_like
from latentlab.errors import UserError
from latentlab.gradients import with_gradient_of_square
from latentlab.models import samplers
from latentlab.models.samplers import ANCESTRAL, Sampler
from latentlab.nn import Shape, full_precision
from latentlab.schedules import NoiseSchedule, alpha, sigma

# denoiser(event_shape, gamma_min=..., gamma_max=...) makes a network f(z_t, gamma_t) that starts at zero.
DenoiserFactory = Callable[..., nn.Module]


class Parametrisation(ABC):
    r"""The meaning of the network's output f: a map from f to the predicted noise $\hat\epsilon$."""

    @abstractmethod
    def __call__(self, f: Tensor, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        """Return eps_hat (N, *event_shape).

        Args:
            f: the output of the network, (N, *event_shape).
            z_t: the noisy data, (N, *event_shape).
            gamma_t: the noise level, (N, 1, ..., 1).
        """


class ResidualNoise(Parametrisation):
    r"""The noise as the input plus a residual, $\hat\epsilon = z_t + f$ (code of Kingma et al. 2021)."""

    def __call__(self, f: Tensor, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        return z_t + f


class Noise(Parametrisation):
    r"""The noise itself, $\hat\epsilon = f$ (Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 3.2)."""

    def __call__(self, f: Tensor, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        return f


class Data(Parametrisation):
    r"""The data, $\hat x = f$, hence $\hat\epsilon = (z_t - \alpha_t f) / \sigma_t$."""

    def __call__(self, f: Tensor, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        return (z_t - alpha(gamma_t) * f) / sigma(gamma_t)


class Velocity(Parametrisation):
    r"""The velocity $v = \alpha_t \epsilon - \sigma_t x$, hence $\hat\epsilon = \sigma_t z_t + \alpha_t f$.

    Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, section 4 and appendix D.
    """

    def __call__(self, f: Tensor, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        return sigma(gamma_t) * z_t + alpha(gamma_t) * f


class Score(Parametrisation):
    r"""The score $\nabla_{z_t} \log q(z_t) = -E[\epsilon|z_t] / \sigma_t$, hence $\hat\epsilon = -\sigma_t f$.

    Song et al. 2021, https://arxiv.org/abs/2011.13456, section 2.
    """

    def __call__(self, f: Tensor, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        return -sigma(gamma_t) * f


class Mixed(Parametrisation):
    r"""The mixed score, $\hat\epsilon = \sigma_t z_t + f$ (Vahdat et al. 2021, section 3.2).

    $\sigma_t z_t = E[\epsilon|z_t]$ for x ~ N(0, I), so the diffusion starts as a standard normal.
    """

    def __call__(self, f: Tensor, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        return sigma(gamma_t) * z_t + f


class Signs(Parametrisation):
    r"""The log odds of data that are -1 or 1.

    A noisy entry alone has the log odds $2 \alpha_t z_t / \sigma_t^2$, exactly. The network adds what the other
    entries say: $\hat x = \tanh(\alpha_t z_t / \sigma_t^2 + f)$ and
    $\hat\epsilon = (z_t - \alpha_t \hat x) / \sigma_t$. The loss vanishes at little noise for any f. A network that
    predicts $\epsilon$ would have to learn to divide by a small $\sigma_t$. With f = 0 the bound of D entries is that
    of D fair coins, $-D \log 2$.
    """

    def __call__(self, f: Tensor, z_t: Tensor, gamma_t: Tensor) -> Tensor:
        alpha_t, sigma_t = alpha(gamma_t), sigma(gamma_t)
        x_hat = torch.tanh(alpha_t / sigma_t**2 * z_t + f)
        return (z_t - alpha_t * x_hat) / sigma_t


class NoiseDraws(NamedTuple):
    """The random draws of a loss: u in (0, 1], (N,), and standard normal eps (N, *event_shape)."""

    u: Tensor
    eps: Tensor

    def times(self, steps: int | None) -> Tensor:
        """Return u, or with T steps the times i / T, i = 1, ..., T, that it is rounded up to, (N,)."""
        return self.u if steps is None else (self.u * steps).ceil() / steps


class Errors(NamedTuple):
    r"""Errors at one time for each example.

    Attributes:
        loss: the estimate of $L_T$, (N,).
        error: $|\epsilon - \hat\epsilon|^2$, (N,).
        gamma_t: the noise levels, (N,).
        weight: the weight of the error in the loss, (N,).
    """

    loss: Tensor
    error: Tensor
    gamma_t: Tensor
    weight: Tensor


class Diffusion(nn.Module):
    r"""A diffusion of tensors of `event_shape`, with the terms of its bound that do not depend on p(x|z_0).

    $\log p(x) \ge E[\log p(x|z_0)] - KL(q(z_1|x)\,\|\,N(0, I)) - L_T$ (Kingma et al. 2021, eq. 11). The last two terms
    are `prior_kl` and `loss`. With T steps, times are on the grid i / T.

    Args:
        event_shape: the shape of one x.
        noise_schedule: gamma(t).
        denoiser: makes the network by `denoiser(event_shape, gamma_min=..., gamma_max=...)`. The network maps z_t
            (N, *event_shape) and gamma_t (N,), in nats, to f (N, *event_shape).
        parametrisation: turns f into eps_hat.
        num_classes: the number C of classes of a conditional diffusion. Then the denoiser is made with `num_classes=C`
            as well, and is called with labels (N,) from 0 to C, where C stands for no class.
    """

    origin: Tensor

    def __init__(
        self,
        event_shape: Shape,
        noise_schedule: NoiseSchedule,
        denoiser: DenoiserFactory,
        parametrisation: Parametrisation,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.event_shape = tuple(event_shape)
        self.noise_schedule = noise_schedule
        self.parametrisation = parametrisation
        # Gives samples their dtype and device.
        self.register_buffer("origin", torch.zeros(()), persistent=False)
        options = {"gamma_min": noise_schedule.gamma_min, "gamma_max": noise_schedule.gamma_max}
        classes = {} if num_classes is None else {"num_classes": num_classes}
        self.denoiser = denoiser(self.event_shape, **options, **classes)

    def noised(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        r"""Return $z_t = \alpha_t x + \sigma_t \epsilon$ for x and eps (N, *event_shape) and times t (N,)."""
        return self._mix(x, self.noise_schedule(t).gamma, eps)

    def predict(self, z_t: Tensor, gamma_t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return eps_hat for z_t (N, *event_shape) and gamma_t (N,), in float32 at least.

        With classes, y (N,) are the classes, and `num_classes` stands for no class. None means no class for all.
        """
        f = full_precision(self.denoiser(z_t, gamma_t, *self._classes(y, len(z_t))))
        return self.parametrisation(f, z_t, self._each(gamma_t))

    def guided(self, z_t: Tensor, gamma_t: Tensor, y: Tensor | None, guidance: float) -> Tensor:
        r"""Return $(1 + w) \hat\epsilon(z_t, y) - w \hat\epsilon(z_t)$ with w = `guidance`.

        Classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, eq. 6). w = 0 is no guidance.
        """
        eps_hat = self.predict(z_t, gamma_t, y)
        if not guidance:
            return eps_hat
        return (1 + guidance) * eps_hat - guidance * self.predict(z_t, gamma_t)

    def _classes(self, y: Tensor | None, n: int) -> tuple[Tensor, ...]:
        if self.num_classes is None:
            return ()
        return (torch.full((n,), self.num_classes, device=self.origin.device) if y is None else y,)

    def prior_kl(self, x: Tensor) -> Tensor:
        r"""$KL(q(z_1|x)\,\|\,N(0, I)) = \frac12 \sum_d [\alpha_1^2 (x_d^2 - 1) - \log \sigma_1^2]$, (N,), in nats."""
        gamma = x.new_tensor(self.noise_schedule.gamma_max)
        return 0.5 * (alpha(gamma) ** 2 * (x**2 - 1) + softplus(-gamma)).flatten(1).sum(1)

    def times(self, n: int, samples: int = 1) -> Tensor:
        """Draw times in (0, 1], (samples, n), evenly spaced from a random start (Kingma et al. 2021, appendix I.1).

        Each time is uniform, and the n times of each sample are evenly spaced too. Means over them have less variance
        than over independent times.
        """
        return each_block(n, lambda size: self._times(size, samples), dim=1)

    def _times(self, n: int, samples: int) -> Tensor:
        start = torch.rand(1, dtype=self.origin.dtype, device=self.origin.device)
        order = torch.arange(samples * n, device=start.device).view(samples, n)
        return 1 - (start + order / (samples * n)) % 1

    def draw(self, x: Tensor) -> NoiseDraws:
        return NoiseDraws(self.times(len(x))[0], normal_like(x))

    def loss(
        self, x: Tensor, steps: int | None = None, draws: NoiseDraws | None = None, y: Tensor | None = None
    ) -> Tensor:
        r"""Return an unbiased estimate of $L_T$, with one time for each x, (N,).

        Args:
            x: the data (N, *event_shape).
            steps: T; None for the limit of infinitely many steps.
            draws: the draws of the estimate, made here if None. Estimates for several T can share them.
            y: the classes (N,), see `predict`.
        """
        draws = self.draw(x) if draws is None else draws
        return self.loss_at(x, draws.times(steps), steps, draws.eps, y)

    def loss_at(
        self,
        x: Tensor,
        t: Tensor,
        steps: int | None = None,
        eps: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        r"""Return the estimate of $L_T$ at the given times t (N,), (N,). With T steps they are i / T, i = 1, ..., T.

        $\frac{T}{2} \mathrm{expm1}(\gamma(t) - \gamma(t - 1/T)) |\epsilon - \hat\epsilon|^2$ (eq. 14), or in the limit
        $\frac12 \gamma'(t) |\epsilon - \hat\epsilon|^2$ (eq. 17). $L_T$ is the mean over uniform t and normal eps. eps
        is drawn if None.

        The limit does not depend on $\gamma$ between its end points (section 5.1), so its gradient there is pure
        noise. A learned schedule is trained for a small variance instead, by the gradient of the squared loss
        (appendix I.2).
        """
        return self.errors(x, t, steps, normal_like(x) if eps is None else eps, y).loss

    def errors(
        self, x: Tensor, t: Tensor, steps: int | None, eps: Tensor, y: Tensor | None = None
    ) -> "Errors":
        """Return the estimate of `loss_at` and what it was computed from, of one pass of the network."""
        gamma_t, slope = self.noise_schedule(t)
        error = (eps - self.predict(self._mix(x, gamma_t, eps), gamma_t, y)).square().flatten(1).sum(1)
        if steps is None:
            weight = 0.5 * slope
            loss = with_gradient_of_square(weight * error, (gamma_t, slope), scale=x[0].numel())
        else:
            gamma_s = self.noise_schedule((t - 1 / steps).clamp(min=0)).gamma
            weight = 0.5 * steps * torch.expm1(gamma_t - gamma_s)
            loss = weight * error
        return Errors(loss, error, gamma_t, weight)

    def reverse(self, z_t: Tensor, t: Tensor, s: Tensor) -> Independent:
        """Return p(z_s|z_t) for times s < t (N,), batch shape (N,), see `samplers.reverse`."""
        gamma_t, gamma_s = self.noise_schedule(t).gamma, self.noise_schedule(s).gamma
        eps_hat = self.predict(z_t, gamma_t)
        p = samplers.reverse(z_t, eps_hat, self._each(gamma_t), self._each(gamma_s))
        return Independent(p, len(self.event_shape))

    def path(
        self,
        n: int,
        steps: int,
        sampler: Sampler = ANCESTRAL,
        y: Tensor | None = None,
        guidance: float = 0.0,
    ) -> Iterator[Tensor]:
        """Draw n paths z_1, z_{1 - 1/T}, ..., z_0 with T = `steps`: T + 1 tensors (n, *event_shape).

        Args:
            n: the number of paths.
            steps: T.
            sampler: draws z_s from z_t.
            y: the classes (n,), see `predict`.
            guidance: the weight w of `guided`.

        Raises:
            UserError: for less than one step.
        """
        if steps < 1:
            raise UserError(f"steps={steps}: sampling needs at least one step")
        z = torch.randn(n, *self.event_shape, dtype=self.origin.dtype, device=self.origin.device)
        yield z
        for step in range(steps, 0, -1):
            gamma_t, gamma_s = (
                self.noise_schedule(z.new_full((n,), i / steps)).gamma for i in (step, step - 1)
            )
            eps_hat = self.guided(z, gamma_t, y, guidance)
            z = sampler(z, eps_hat, self._each(gamma_t), self._each(gamma_s))
            yield z

    def sample(self, n: int, steps: int, **options: Any) -> Tensor:
        """Return the ends z_0 of n paths, (n, *event_shape), with the options of `path`."""
        return deque(self.path(n, steps, **options), maxlen=1).pop()

    def _mix(self, x: Tensor, gamma: Tensor, eps: Tensor) -> Tensor:
        return self._each(alpha(gamma)) * x + self._each(sigma(gamma)) * eps

    def _each(self, values: Tensor) -> Tensor:
        """Reshape (N,) to (N, 1, ..., 1), which broadcasts over `event_shape`."""
        return values.view(-1, *[1] * len(self.event_shape))


def signed(x: Tensor) -> Tensor:
    """Scale images from [0, 1] to [-1, 1]."""
    return 2 * x - 1
