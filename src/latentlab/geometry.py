r"""The geometry that a decoder f gives the latent space: lengths of curves are measured between images.

The pull-back metric is $G(z) = J(z)^\top J(z)$ for the Jacobian J of f (Arvanitidis et al. 2018, eq. 3), with the
Euclidean metric between means of p(x|z). An ensemble f_1, ..., f_M has the mean of its members' metrics (Syrota et
al. 2024). Everywhere, z is flat: (N, D) for points and (P, S, D) for P curves of S points.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import pi

import torch
from torch import Tensor

from latentlab.errors import UserError
from latentlab.likelihoods import EnsembleLikelihood
from latentlab.models.autoencoder import Autoencoder
from latentlab.models.base import GenerativeModel
from latentlab.models.latent_vdm import LatentVDM
from latentlab.models.vae import SingleLayer

Decoder = Callable[[Tensor], Tensor]  # (N, D) -> (N, X)
ROUNDS, STEPS = 20, 15  # the most rounds of L-BFGS, and the steps of a round
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Geodesics:
    """Curves of least energy between P pairs of latents.

    Attributes:
        curves: the points, (P, S, D).
        lengths: their lengths, (P,).
        straight: the lengths of the straight lines between the same ends, (P,).
        changes: the relative decreases of the energies in the last round of steps, (P,).
    """

    curves: Tensor
    lengths: Tensor
    straight: Tensor
    changes: Tensor

    @property
    def converged(self) -> Tensor:
        """True for each curve whose energy no longer decreases, (P,)."""
        return self.changes < TOLERANCE


def decoder_means(model: GenerativeModel) -> list[Decoder]:
    """Return the maps from flat z to means of p(x|z), (N, D) to (N, X), one for each member of an ensemble.

    Raises:
        UserError: for a model whose p(x|z) does not depend on one layer of real latents alone.
    """
    if not isinstance(model, SingleLayer | Autoencoder | LatentVDM):
        raise UserError(
            f"{type(model).__name__} has no decoder of one layer of latents, and no geometry: choose model=vae"
        )
    if isinstance(model, SingleLayer) and model.discrete:
        raise UserError(
            "one-hot latents have no curves between them, and no geometry: choose posterior=diagonal_normal"
        )
    if isinstance(model.likelihood, EnsembleLikelihood):
        return [partial(_mean, member) for member in model.likelihood.decoders]
    return [lambda z: model.decode(z).flatten(1)]


def _mean(likelihood: Callable[[Tensor], torch.distributions.Distribution], z: Tensor) -> Tensor:
    return likelihood(z).mean.flatten(1)


@contextmanager
def recording() -> Iterator[None]:
    """Record gradients, in the inference mode of an evaluation too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def jacobian(decoder: Decoder, z: Tensor) -> Tensor:
    r"""Return the Jacobians J of a decoder at z (N, D), (N, X, D).

    A column of J is the derivative of $v \mapsto J^\top v$, so that there are D + 1 backward passes.
    """
    with recording():
        z = z.detach().clone().requires_grad_()
        x = decoder(z)
        v = torch.zeros_like(x, requires_grad=True)
        (pulled,) = torch.autograd.grad(x, z, v, create_graph=True)
        columns = [torch.autograd.grad(each.sum(), v, retain_graph=True)[0] for each in pulled.unbind(1)]
    return torch.stack(columns, dim=-1)


def metric(decoders: Sequence[Decoder], z: Tensor) -> Tensor:
    r"""Return $G(z) = \frac{1}{M} \sum_m J_m(z)^\top J_m(z)$ for z (N, D), (N, D, D)."""
    jacobians = [jacobian(decoder, z) for decoder in decoders]
    return torch.stack([j.mT @ j for j in jacobians]).mean(0)


def volume(decoders: Sequence[Decoder], z: Tensor) -> Tensor:
    r"""Return $\sqrt{\det G(z)}$ for z (N, D), (N,)."""
    return torch.linalg.det(metric(decoders, z).double()).clamp(min=0).sqrt()


def squared_steps(decoders: Sequence[Decoder], curves: Tensor) -> Tensor:
    r"""Return the expected squared distances of neighbouring points, (P, S - 1), for curves (P, S, D).

    $E_{l,k} \|f_l(c_{s+1}) - f_k(c_s)\|^2$ for members l and k that are drawn independently (Syrota et al. 2024). With
    means $\bar f$ and variances over members, summed over pixels, it is exactly
    $\|\bar f(c_{s+1}) - \bar f(c_s)\|^2 + \mathrm{Var}_l f_l(c_{s+1}) + \mathrm{Var}_k f_k(c_s)$.
    """
    images = torch.stack([f(curves.flatten(0, 1)).unflatten(0, curves.shape[:2]) for f in decoders])
    mean = images.mean(0)  # (P, S, X)
    variance = (images - mean).square().mean(0).sum(-1)  # (P, S)
    return mean.diff(dim=1).square().sum(-1) + variance[:, 1:] + variance[:, :-1]


def energy(decoders: Sequence[Decoder], curves: Tensor) -> Tensor:
    r"""Return the energies $\int_0^1 \|\partial_t f(c(t))\|^2 dt$ of curves (P, S, D), (P,), by finite differences.

    It is at least the squared length, and equal to it at constant speed.
    """
    return (curves.shape[1] - 1) * squared_steps(decoders, curves).sum(-1)


def length(decoders: Sequence[Decoder], curves: Tensor) -> Tensor:
    """Return the lengths of curves (P, S, D), (P,).

    The length is the sum of the root expected squared steps. For an ensemble it grows with the number of points, since
    each step adds the disagreement of two members. Compare lengths for equal numbers of points.
    """
    # A step of length zero has no gradient of its root. Lengths are reported, and energies are minimised.
    return squared_steps(decoders, curves).sqrt().sum(-1)


def straight_lines(start: Tensor, end: Tensor, points: int) -> Tensor:
    """Return straight lines from start (P, D) to end (P, D), (P, S, D) for S points."""
    t = torch.linspace(0, 1, points, dtype=start.dtype, device=start.device)[:, None]
    return torch.lerp(start[:, None], end[:, None], t)


@recording()
def geodesics(
    decoders: Sequence[Decoder], start: Tensor, end: Tensor, points: int = 20, rounds: int = ROUNDS
) -> Geodesics:
    r"""Return curves of least energy from start (P, D) to end (P, D), all optimised together by L-BFGS.

    A curve is a polyline, the straight line plus $\sum_k a_k \sin(\pi k t) / k$. In these coefficients, the energy of a
    flat space has equal curvatures in all directions. The optimisation begins at the straight lines, and ends once the
    energy of every curve decreases by less than TOLERANCE in a round. A curve may be a local minimum.

    Args:
        decoders: the members of an ensemble, or one decoder.
        start: the first ends.
        end: the last ends.
        points: the number S of points.
        rounds: the most rounds.
    """
    lines = straight_lines(start, end, points)
    t = torch.linspace(0, 1, points, dtype=start.dtype, device=start.device)
    k = torch.arange(1, points - 1, dtype=start.dtype, device=start.device)
    waves = torch.sin(pi * k * t[:, None]) / k  # (S, S - 2)
    straight = energy(decoders, lines).detach()
    scale = straight.where(straight > 0, torch.ones_like(straight))  # a pair may have equal ends
    a = torch.zeros(len(start), points - 2, start.shape[1], dtype=start.dtype, device=start.device)
    a.requires_grad_()
    optimizer = torch.optim.LBFGS([a], max_iter=STEPS, history_size=30, line_search_fn="strong_wolfe")

    def energies() -> Tensor:
        return energy(decoders, lines + waves @ a) / scale

    def loss() -> Tensor:
        (a.grad,) = torch.autograd.grad(total := energies().sum(), a)
        return total

    before, changes = energies().detach(), torch.ones_like(scale)
    for _ in range(rounds):
        optimizer.step(loss)
        after = energies().detach()
        changes, before = (before - after) / before.clamp(min=1e-30), after
        if (changes < TOLERANCE).all():
            break
    with torch.no_grad():
        curves = lines + waves @ a
        return Geodesics(curves, length(decoders, curves), length(decoders, lines), changes)
