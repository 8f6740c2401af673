"""Priors p(z): modules that return a distribution of the latents."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf

import numpy as np
import torch
import zuko
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from latentlab.distributions import Mixture, OneHot
from latentlab.errors import UserError
from latentlab.nn import Shape, keep_full_precision
from latentlab.posteriors import Posterior


class Prior(nn.Module, ABC):
    """A prior over latents of shape `event_shape`.

    Args:
        event_shape: the shape of one latent.
        posterior: the q(z|x) of the same model.
    """

    def __init__(self, event_shape: Shape, posterior: Posterior | None = None) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    @abstractmethod
    def forward(self) -> Distribution:
        """p(z), with batch shape () and the event shape of one latent."""

    def initialise(self, inputs: Tensor) -> None:
        """Adapt to the posterior's inputs (N, ...) for training examples, before training. Draws nothing."""

    def fit(self, means: Tensor, variance: Tensor) -> None:
        """Start from q(z|x) of a trained model, where the prior has a fast way. Draws nothing.

        Args:
            means: the means of q(z|x) for training examples, (N, *event_shape).
            variance: the mean of its variances, (*event_shape).
        """


PriorFactory = Callable[..., Prior]


class RealPrior(Prior, ABC):
    """A prior over vectors of D real numbers.

    Raises:
        UserError: if the posterior's latents are one-hot.
    """

    def __init__(self, event_shape: Shape, posterior: Posterior | None = None) -> None:
        super().__init__(event_shape, posterior)
        if posterior is not None and posterior.discrete:
            raise UserError(
                f"{type(self).__name__} is a density of real latents, and {type(posterior).__name__} draws "
                "one-hot latents: choose prior=categorical, or another posterior, such as posterior=diagonal_normal"
            )


class StandardNormalPrior(RealPrior):
    r"""The standard normal prior $p(z) = \mathcal N(z; 0, I)$."""

    zero: Tensor

    def __init__(self, event_shape: Shape, posterior: Posterior | None = None) -> None:
        super().__init__(event_shape, posterior)
        # A buffer follows the module's device and dtype.
        self.register_buffer("zero", torch.zeros(self.event_shape), persistent=False)

    def forward(self) -> Independent:
        return Independent(Normal(self.zero, torch.ones_like(self.zero)), len(self.event_shape))


class MixtureOfGaussiansPrior(RealPrior):
    r"""The mixture $p(z) = \sum_k \pi_k \mathcal N(z; m_k, \mathrm{diag}\,s_k^2)$ with learned $\pi$, m and s.

    It starts from equal weights, scales of 1 and random means.

    Args:
        event_shape: the shape of one latent.
        posterior: the q(z|x) of the same model.
        num_components: the number of components.
        spread: the standard deviation of the initial means around 0.
    """

    def __init__(
        self,
        event_shape: Shape,
        posterior: Posterior | None = None,
        num_components: PositiveInt = 10,
        spread: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(event_shape, posterior)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(spread * torch.randn(num_components, *self.event_shape))
        self.log_scales = nn.Parameter(torch.zeros(num_components, *self.event_shape))

    def forward(self) -> Mixture:
        components = Independent(Normal(self.means, self.log_scales.exp()), len(self.event_shape))
        return Mixture(Categorical(logits=self.logits), components)

    @torch.no_grad()
    def fit(self, means: Tensor, variance: Tensor) -> None:
        """Start from the means' maximum likelihood by EM (`sklearn.mixture.GaussianMixture`), widened by `variance`."""
        from sklearn.exceptions import ConvergenceWarning  # late, as it is slow to import
        from sklearn.mixture import GaussianMixture

        flat = means.flatten(1).double().cpu().numpy()
        number = min(len(self.logits), len(flat))
        with warnings.catch_warnings():  # a start need not have converged
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = GaussianMixture(number, covariance_type="diag", random_state=0).fit(flat)
        for parameter, value in (
            (self.logits, np.log(found.weights_)),
            (self.means, found.means_),
            (self.log_scales, 0.5 * np.log(found.covariances_ + variance.flatten().double().cpu().numpy())),
        ):
            parameter[: len(value)] = torch.as_tensor(value).reshape(-1, *parameter.shape[1:])


class VampPrior(Prior):
    r"""The mixture of posteriors $p(z) = \frac{1}{K} \sum_k q(z|u_k)$ at learned pseudo-inputs $u_k$.

    Tomczak and Welling 2018, eq. 9. A pseudo-input has the shape of the posterior's input: an image in a VAE, a latent
    of a lower layer in a hierarchy. Images are clamped to `bounds` (the paper's hard-tanh). Pseudo-inputs start from
    training examples or from `mean`. Examples are first clamped to slightly narrower bounds, because a clamped value
    gets no gradient.

    Args:
        event_shape: the shape of one latent.
        posterior: the q(z|x) of the mixture. It stays the owner of its parameters.
        num_components: the number K of pseudo-inputs.
        from_data: True to start from training examples.
        mean: the initial value of every pixel otherwise.
        spread: the standard deviation of the noise that is added to the initial values.
        bounds: the smallest and largest pixel value of an image, or None for no bounds. Latents have none.

    Raises:
        UserError: without a posterior.
    """

    def __init__(
        self,
        event_shape: Shape,
        posterior: Posterior | None = None,
        num_components: PositiveInt = 500,
        from_data: bool = True,
        mean: float = 0.5,
        spread: NonNegativeFloat = 0.01,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(event_shape, posterior)
        if posterior is None:
            raise UserError(
                "VampPrior is a mixture of posteriors, and the model lacks one: choose prior=standard_normal or mog"
            )
        low, high = bounds or (-inf, inf)
        margin = 2 * spread if from_data and posterior.sees_images else 0.0
        if not low + margin < high - margin:
            raise UserError(
                f"prior.bounds={[low, high]} with prior.spread={spread}: the upper bound must be larger than the lower "
                f"one by more than {2 * margin:g}"
            )
        self.from_data = from_data
        self.mean = mean
        self.spread = spread
        self.bounds = bounds if bounds is not None and posterior.sees_images else (None, None)
        # In a tuple, so that the posterior is not a submodule and its parameters are not registered twice.
        self.reference = (posterior,)
        noise = torch.randn(num_components, *posterior.in_shape)
        self.pseudo_inputs = nn.Parameter(mean + spread * noise)

    def forward(self) -> Mixture:
        (posterior,) = self.reference
        inputs = self.pseudo_inputs if self.bounds == (None, None) else self.pseudo_inputs.clamp(*self.bounds)
        return Mixture(Categorical(logits=inputs.new_zeros(len(inputs))), posterior(inputs))

    @torch.no_grad()
    def initialise(self, inputs: Tensor) -> None:
        """Start the pseudo-inputs from the first K inputs, repeated if there are fewer."""
        if self.from_data:
            low, high = self.bounds
            margin = 2 * self.spread
            chosen = inputs[torch.arange(len(self.pseudo_inputs), device=inputs.device) % len(inputs)]
            if low is not None and high is not None:
                chosen = chosen.clamp(low + margin, high - margin)
            self.pseudo_inputs.add_(chosen - self.mean)  # replaces the mean and keeps the noise


class FlowPrior(RealPrior):
    r"""A normalising flow f, $p(z) = \mathcal N(f(z); 0, I)\,|\det \partial f / \partial z|$.

    The default is RealNVP (Dinh et al. 2017, eq. 4 and 5).

    Args:
        event_shape: the shape (D,) of one latent.
        posterior: the q(z|x) of the same model.
        flow: makes a flow of D features, such as `zuko.flows.RealNVP`, `MAF` or `NSF`.
        identity: True to start from f(z) = z. Many transforms with random weights can overflow.

    Raises:
        UserError: if latents are not vectors.
    """

    def __init__(
        self,
        event_shape: Shape,
        posterior: Posterior | None = None,
        flow: Callable[[int], zuko.flows.Flow] = zuko.flows.RealNVP,
        identity: bool = False,
    ) -> None:
        super().__init__(event_shape, posterior)
        if len(self.event_shape) != 1:
            raise UserError(
                f"FlowPrior is a density of vectors, and latents have the shape {self.event_shape}: "
                "choose prior=standard_normal or mog"
            )
        self.flow = flow(*self.event_shape)
        keep_full_precision(self.flow)
        for module in self.flow.modules():
            if identity and isinstance(module, (zuko.nn.MLP, zuko.nn.MaskedMLP)):
                nn.init.zeros_(module[-1].weight)
                nn.init.zeros_(module[-1].bias)

    def forward(self) -> Distribution:
        return self.flow()


class CategoricalPrior(Prior):
    r"""The uniform prior over L one-hot vectors of C categories, $p(z) = C^{-L}$.

    Args:
        event_shape: the shape (L, C) of one latent.
        posterior: the q(z|x) of the same model.

    Raises:
        UserError: if the posterior's latents are real.
    """

    zero: Tensor

    def __init__(self, event_shape: Shape, posterior: Posterior | None = None) -> None:
        super().__init__(event_shape, posterior)
        if posterior is not None and not posterior.discrete:
            raise UserError(
                f"CategoricalPrior is a prior of one-hot latents, and {type(posterior).__name__} draws real ones: "
                "choose another prior, such as prior=standard_normal, or model=categorical_vae"
            )
        self.register_buffer("zero", torch.zeros(self.event_shape), persistent=False)

    def forward(self) -> Independent:
        return Independent(OneHot(logits=self.zero), 1)
