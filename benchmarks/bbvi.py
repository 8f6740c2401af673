"""The effect of control variates and Rao-Blackwellisation on score-function gradients of the Normal-Gamma model.

    python benchmarks/bbvi.py

The benchmark prints two results for the four combinations. The first is the variance of the gradient, relative to
the plain estimator, at the start and at the optimum. The second is the error of E[mu] and E[tau] after equal numbers
of draws, over several seeds.
"""

from functools import partial
from itertools import product

import torch
from torch.optim import Adam

from latentlab.classical.base import run
from latentlab.classical.bbvi import NAMES, BBVINormalGamma, RobbinsMonro
from latentlab.classical.normal_gamma import CAVINormalGamma
from latentlab.classical.sources import NormalDraws

SAMPLES, ITERATIONS, SEEDS, GRADIENTS = 10, 2000, 5, 3000
X = NormalDraws(100).x
VARIANTS = list(product([False, True], repeat=2))


def variance(theta, control_variates, rao_blackwell):
    torch.manual_seed(0)
    model = BBVINormalGamma(RobbinsMonro, SAMPLES, control_variates, rao_blackwell)
    model.begin([X])
    model.theta.copy_(theta)
    return model.contributions(SAMPLES, GRADIENTS).mean(0).var(0)


def distances(step_size, control_variates, rao_blackwell):
    """Root mean square errors of E[mu] and E[tau] in posterior standard deviations, and the mean gap of the ELBO."""
    best, found = run(CAVINormalGamma(), X, 100).elbo(), []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = BBVINormalGamma(step_size, SAMPLES, control_variates, rao_blackwell, tolerance=0.0)
        run(model, X, ITERATIONS)
        q, exact = model.moments(), model.exact().moments()
        mu = (q.mean_mu - exact.mean_mu) / exact.var_mu**0.5
        tau = (q.mean_tau - exact.mean_tau) / exact.var_tau**0.5
        found.append(torch.stack([mu**2, tau**2, best - model.elbo()]))
    mean = torch.stack(found).mean(0)
    return [*mean[:2].sqrt().tolist(), float(mean[2])]


def print_variances(name, theta):
    plain = variance(theta, False, False)
    print(f"variance of the gradient at the {name}, S = {SAMPLES}: plain, then ratios to plain")
    print("  plain        ", *(f"{name} {value:.3g}" for name, value in zip(NAMES, plain, strict=True)))
    for cv, rb in VARIANTS[1:]:
        ratios = zip(NAMES, variance(theta, cv, rb) / plain, strict=True)
        print(f"  CV {cv!s:5} RB {rb!s:5}", *(f"{name} {value:.2e}" for name, value in ratios))


def print_distances(name, step_size):
    print(
        f"{name}: after {ITERATIONS} x {SAMPLES} draws, {SEEDS} seeds: rms of E[mu], E[tau] in sd; ELBO gap"
    )
    for cv, rb in VARIANTS:
        mu, tau, gap = distances(step_size, cv, rb)
        print(f"  CV {cv!s:5} RB {rb!s:5}  {mu:.3g}  {tau:.3g}  {gap:.3g}")


def main():
    m, precision, a, b = run(CAVINormalGamma(), X, 100).q()
    print_variances("start", torch.zeros(4).double())
    print_variances("optimum", torch.stack([m, -0.5 * precision.log(), a.log(), b.log()]))
    print_distances("1/(1000 + t)", RobbinsMonro)
    print_distances("Adam, lr 0.02", partial(Adam, lr=0.02))


if __name__ == "__main__":
    main()
