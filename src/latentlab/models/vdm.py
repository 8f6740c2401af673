"""The variational diffusion model, and the base of all models with a diffusion in their bound."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from math import log, prod
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from latentlab.batch import Batch
from latentlab.draws import normal_like
from latentlab.errors import UserError
from latentlab.likelihoods import Likelihood
from latentlab.likelihoods.noised import Noised, NoisedLikelihood, NoisedVectors
from latentlab.models.base import GenerativeModel
from latentlab.models.diffusion import (
    DenoiserFactory,
    Diffusion,
    NoiseDraws,
    Parametrisation,
    ResidualNoise,
    Signs,
)
from latentlab.models.samplers import ANCESTRAL, Sampler
from latentlab.nn import Shape
from latentlab.protocols import Protocol, Real
from latentlab.schedules import NoiseSchedule, alpha, sigma
from latentlab.weightings import WEIGHTED, Weighting

# The default gamma(0) for two values of a pixel, and for 256 (code of Kingma et al. 2021).
TWO_VALUES, MANY_VALUES = -4.0, -13.3
# The default gamma(0) for real numbers, which are resolved to exp(-5) = 0.007.
REAL_VALUES = -10.0


class Diffused(NamedTuple):
    r"""The data of a diffusion, and the other terms of the bound.

    The bound is `reconstruction` less the sum of `kls` less the diffusion's loss $L_T$.

    Attributes:
        data: the tensors that noise is added to, (B, *event_shape).
        reconstruction: log p(x|.), (B,).
        kls: the other terms by their names, each (B,).
        y: the classes that the denoiser sees, (B,), see `Diffusion.predict`; None without classes.
    """

    data: Tensor
    reconstruction: Tensor
    kls: dict[str, Tensor]
    y: Tensor | None = None


class DiffusionModel(GenerativeModel, ABC):
    """A model with a diffusion in its bound. The bound is estimated at one random time per draw and example.

    Attributes:
        diffusion: the diffusion.
        steps: the number T of steps of the bound `elbo`; None for its limit.
        eval_steps: further numbers of steps, whose bounds are reported as `elbo_T10` and so on.
        sample_steps: the number of steps of a sample.
        sampler: draws each of these steps.
        label_dropout: the probability that an example loses its class in training.
        guidance: the weight of classifier-free guidance in samples of a class.
        likelihood: p(x|.), given the return value of `end`.
    """

    weighted = False
    eval_samples = 8
    diffusion: Diffusion
    steps: int | None
    eval_steps: Sequence[int]
    sample_steps: int
    sampler: Sampler = ANCESTRAL
    label_dropout: float = 0.0
    guidance: float = 0.0
    likelihood: Likelihood

    @abstractmethod
    def diffused(self, x: Any) -> Diffused:
        """Draw the diffusion's data for x, with the other terms of the bound."""

    @abstractmethod
    def end(self, z_0: Tensor) -> Tensor:
        """Return the input of p(x|.) for the ends z_0 of sampled paths (n, ...)."""

    def terms(self, x: Any, samples: int = 1) -> dict[str, Tensor]:
        """The terms `elbo`, `reconstruction`, `kl` and the parts of `kl`, each (B,), in nats."""
        return self._estimate(x, samples, [])

    def test_terms(self, x: Any, samples: int = 1) -> dict[str, Tensor]:
        """The terms, and the bounds `elbo_T10`, ..., `elbo_Tinf` for other numbers of steps, each (B,).

        All bounds share their draws, so their differences are precise. Each costs one more pass of the network.
        """
        others = [steps for steps in (*self.eval_steps, None) if steps != self.steps]
        return self._estimate(x, samples, others)

    def weighted_terms(self, x: Any, weighting: Weighting, samples: int = 1) -> dict[str, Tensor]:
        """The terms, the denoiser's weighted loss, and `weighted_elbo` with this loss in place of L_T, each (B,)."""
        return self._estimate(x, samples, [], weighting)

    def path(self, n: int, steps: int | None = None, y: Tensor | None = None) -> Iterator[Tensor]:
        """Draw n paths from noise to data, see `Diffusion.path`.

        Args:
            n: the number of paths.
            steps: the number of steps; None for `sample_steps`.
            y: the classes (n,) of a conditional diffusion; None for classes drawn uniformly.
        """
        number = self.sample_steps if steps is None else steps
        return self.diffusion.path(
            n, number, self.sampler, self.draw_classes(n) if y is None else y, self.guidance
        )

    def draw_classes(self, n: int) -> Tensor | None:
        """Draw the classes of n samples, (n,), or return None without classes."""
        classes, device = self.diffusion.num_classes, self.diffusion.origin.device
        return None if classes is None else torch.randint(classes, (n,), device=device)

    def guide(self, guidance: float) -> None:
        """Set the weight of guidance.

        Raises:
            UserError: if the denoiser was not trained both with and without classes.
        """
        if guidance and (self.diffusion.num_classes is None or not self.label_dropout):
            raise UserError(
                f"guidance={guidance} needs a denoiser that was trained with and without classes: "
                "set model.num_classes=10 and model.label_dropout=0.1 (for model=vdm and model=ddpm)"
            )
        self.guidance = guidance

    def sample_prior(self, n: int, steps: int | None = None, y: Tensor | None = None) -> Tensor:
        """Draw n inputs of p(x|.), the ends of paths."""
        return self.end(deque(self.path(n, steps, y), maxlen=1).pop())

    def sample_latents(self, n: int) -> Tensor:
        return self.sample_prior(n).flatten(1)

    def generate(
        self, n: int, mean: bool = False, steps: int | None = None, y: Tensor | None = None
    ) -> Tensor:
        """Draw n images from p(x), or of given classes, (n, *x_shape).

        Args:
            n: the number of images.
            mean: return the means of p(x|.) instead. Under the same seed they belong to the same paths.
            steps: the number of steps, independent of training; None for `sample_steps`.
            y: the classes (n,) of a conditional diffusion; None for classes drawn uniformly.
        """
        px = self.likelihood(self.sample_prior(n, steps, y))
        return px.mean if mean else px.sample()

    def _estimate(
        self, x: Any, samples: int, others: Sequence[int | None], weighting: Weighting | None = None
    ) -> dict[str, Tensor]:
        drawn = [self.diffused(x) for _ in range(samples)]
        times = self.diffusion.times(len(drawn[0].data), samples)
        scores = [self._score(one, u, others, weighting) for one, u in zip(drawn, times, strict=True)]
        return {name: torch.stack([score[name] for score in scores]).mean(0) for name in scores[0]}

    def _score(
        self, drawn: Diffused, u: Tensor, others: Sequence[int | None], weighting: Weighting | None
    ) -> dict[str, Tensor]:
        data, reconstruction, kls, y = drawn
        draws = NoiseDraws(u, normal_like(data))
        found = self.diffusion.errors(data, draws.times(self.steps), self.steps, draws.eps, y)
        loss = found.loss
        rest = reconstruction - torch.stack(list(kls.values())).sum(0)
        bounds = {_bound_name(steps): rest - self.diffusion.loss(data, steps, draws, y) for steps in others}
        parts = {"reconstruction": reconstruction, "kl": reconstruction - rest + loss, **kls}
        terms = {"elbo": rest - loss, **parts, "kl_diffusion": loss, **bounds}
        if weighting is None:
            return terms
        weighted = weighting(found.gamma_t, found.weight) * found.error
        return {**terms, weighting.loss: weighted, WEIGHTED: rest - weighted}


class VDM(DiffusionModel):
    r"""The variational diffusion model, whose latents z_t are noisy images (Kingma et al. 2021, section 3).

    $\log p(x) \ge E[\log p(x|z_0)] - KL(q(z_1|x)\,\|\,N(0, I)) - L_T$. The diffusion's data are pixels scaled to
    [-1, 1], and p(x|z_0) is over the discrete values of a pixel. Under the protocol `Real` the data are x itself, and
    p(x|z_0) is normal. Inference is fixed but for a learned schedule. Where latents are needed, they are z_0.

    With classes it is $p(x|y)\,p(y)$ with a uniform p(y) and an observed class y, as in `ConditionalVAE`: `elbo` bounds
    $\log p(x, y)$, and `elbo_x_given_y`, without $\log p(y)$, bounds $\log p(x|y)$. In training, some examples lose
    their class, so that the same network denoises without one. Samples of a class can then be guided, see
    `Diffusion.guided`. Guidance changes samples alone, not the bound.

    Args:
        noise_schedule: gamma(t). Its default gamma(0) is that of `least_noise`.
        denoiser: makes the denoiser, see `Diffusion`.
        protocol: the protocol of the data.
        levels: the number of values of a pixel; None for that of the protocol.
        steps: the number T of steps of the bound `elbo`; None for T to infinity.
        eval_steps: further numbers of steps, for which the bound of the test set is reported too.
        sample_steps: the number of steps of a sample.
        log_odds: for two values of a pixel, use the parametrisation `Signs` instead of `ResidualNoise`.
        prediction: another parametrisation of the denoiser, which wins over `log_odds`.
        sampler: draws each step of a sample; None for ancestral sampling.
        num_classes: the number C of classes, with labels from 0 to C - 1; None for a model without classes.
        label_dropout: the probability that an example loses its class in training.
        guidance: the weight w of guidance in samples of a class.
        x_shape: the shape of one image.

    Raises:
        UserError: for continuous pixels in [0, 1]; for guidance without classes or without their dropout.
    """

    learned_inference = False
    likelihood: Noised

    def __init__(
        self,
        noise_schedule: NoiseSchedule,
        denoiser: DenoiserFactory,
        protocol: Protocol,
        levels: Annotated[int, Field(ge=2, le=256)] | None = None,
        steps: PositiveInt | None = None,
        eval_steps: Sequence[PositiveInt] = (10, 100, 1000),
        sample_steps: PositiveInt = 100,
        log_odds: bool = True,
        prediction: Parametrisation | None = None,
        sampler: Sampler | None = None,
        num_classes: Annotated[int, Field(ge=2)] | None = None,
        label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        guidance: NonNegativeFloat = 0.0,
        x_shape: Sequence[PositiveInt] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latent_dim = prod(self.x_shape)
        self.levels = self._levels(protocol) if levels is None else levels
        self.steps = steps
        self.eval_steps = tuple(eval_steps)
        self.sample_steps = sample_steps
        self.sampler = sampler or ANCESTRAL
        self.labelled = num_classes is not None
        self.label_dropout = label_dropout
        schedule = noise_schedule.with_default(least_noise(self.levels))
        default = Signs() if log_odds and self.levels == 2 else ResidualNoise()
        self.diffusion = Diffusion(self.x_shape, schedule, denoiser, prediction or default, num_classes)
        self.likelihood = noised(self.x_shape, self.levels, schedule.gamma_min)
        self.guide(guidance)

    def observe(self, batch: Batch) -> Any:
        return batch if self.labelled else batch.x

    def check_classes(self, n: int) -> None:
        own = self.diffusion.num_classes
        if own is not None and n > own:
            raise UserError(
                f"model.num_classes={own}: the data have labels from 0 to {n - 1}: set model.num_classes={n}"
            )

    def diffused(self, x: Tensor | Batch) -> Diffused:
        images, y = x if isinstance(x, Batch) else (x, None)
        data = self.likelihood.data(images)
        with torch.no_grad():  # neither term has learned parameters
            reconstruction = self.likelihood(self._draw_z_0(data)).log_prob(images)
            kls = {"kl_prior": self.diffusion.prior_kl(data)}
        return Diffused(data, reconstruction, kls, self._dropped(y))

    def _dropped(self, y: Tensor | None) -> Tensor | None:
        if y is None or not (self.training and self.label_dropout):
            return y
        dropped = torch.rand(y.shape, device=y.device) < self.label_dropout
        return torch.where(dropped, self.diffusion.num_classes or 0, y)

    def _estimate(
        self, x: Any, samples: int, others: Sequence[int | None], weighting: Weighting | None = None
    ) -> dict[str, Tensor]:
        terms = super()._estimate(x, samples, others, weighting)
        if self.diffusion.num_classes is None:
            return terms
        log_py = torch.full_like(terms["elbo"], -log(self.diffusion.num_classes))
        joint = {name: term + log_py for name, term in terms.items() if "elbo" in name}
        return {**terms, **joint, "log_py": log_py, "elbo_x_given_y": terms["elbo"]}

    def end(self, z_0: Tensor) -> Tensor:
        return z_0

    def encode(self, x: Tensor | Batch) -> Tensor:
        return self._draw_z_0(self._data(x)).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        return self.likelihood(z.unflatten(-1, self.x_shape)).mean

    def posterior_mean(self, x: Tensor | Batch) -> Tensor:
        data = self._data(x)
        return (alpha(self._gamma_0(data)) * data).flatten(1)

    def scored_as(self, protocol: Protocol) -> Protocol:
        return protocol.counted()

    def check(self, protocol: Protocol) -> None:
        given = self._levels(protocol)
        if given != self.levels:
            raise UserError(
                f"model.levels={self.levels}: protocol={protocol.name} gives {given or 'real'} values: "
                "leave model.levels at null, which takes the number from the protocol"
            )

    def _levels(self, protocol: Protocol) -> int | None:
        levels = self.scored_as(protocol).levels
        if levels is None and not isinstance(protocol, Real):
            raise UserError(
                f"VDM needs discrete pixels, and protocol={protocol.name} gives continuous ones: "
                "choose protocol=discrete, or threshold, dynamic or static for binary pixels"
            )
        return levels

    def _data(self, x: Tensor | Batch) -> Tensor:
        return self.likelihood.data(x.x if isinstance(x, Batch) else x)

    def _draw_z_0(self, data: Tensor) -> Tensor:
        gamma = self._gamma_0(data)
        return alpha(gamma) * data + sigma(gamma) * normal_like(data)

    def _gamma_0(self, x: Tensor) -> Tensor:
        return x.new_tensor(self.diffusion.noise_schedule.gamma_min)


def noised(x_shape: Shape, levels: int | None, gamma: float) -> Noised:
    """Return p(x|z_0) for a number of values of a pixel, or None for real numbers, and gamma(0)."""
    return NoisedVectors(x_shape, gamma) if levels is None else NoisedLikelihood(x_shape, levels, gamma)


def least_noise(levels: int | None) -> float:
    r"""Return the default gamma(0) for n values of a pixel: $-13.3 + 2 \log\frac{255}{n-1}$, and -4 for two.

    The noise $\sigma_0 \approx e^{\gamma(0)/2}$ keeps its ratio to the distance of two values. `Signs` tells two values
    apart at more noise. For real numbers, None, it is -10.
    """
    if levels is None:
        return REAL_VALUES
    return TWO_VALUES if levels == 2 else MANY_VALUES + 2 * log(255 / (levels - 1))


def _bound_name(steps: int | None) -> str:
    return f"elbo_T{'inf' if steps is None else steps}"
