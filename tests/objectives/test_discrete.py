"""Score-function objectives against exact enumeration, for discrete latents; what their baselines are for."""

import pytest
import torch
from binary_chain import BinaryChain
from estimates import estimates, exact_gradient, flat, is_inference
from linear_gaussian import LinearGaussian
from oracles import Z_MAX, largest_z

from latentlab.gradients import with_value
from latentlab.objectives import VIMCO, ScoreFunction, bounds_without_each, scored_at_fixed_draws

SIZES = {1: [2, 3], 2: [2, 2, 1]}


def an_x():
    return torch.tensor([1.2, -0.7]).double()


@pytest.mark.parametrize("levels", SIZES)
@pytest.mark.parametrize(
    ("objective", "samples"), [(ScoreFunction(2), 1), (ScoreFunction(5), 1), (VIMCO(2), 2), (VIMCO(3), 3)]
)
def test_value_and_gradient_by_enumeration(objective, samples, levels):
    model = BinaryChain(SIZES[levels])
    exact = model.exact_bound(an_x(), samples)
    values, gradients = estimates(objective, model, an_x(), 40_000)
    assert largest_z(values, exact) < Z_MAX
    assert largest_z(gradients, exact_gradient(exact, model)) < Z_MAX


def without_baseline(samples):
    def objective(model, x):
        trace = scored_at_fixed_draws(model, x, samples)
        log_w = trace.log_w.detach()
        return with_value(log_w, log_w * trace.log_qz_x + trace.log_px_z + trace.log_pz).mean(0)

    return objective


@pytest.mark.parametrize("levels", SIZES)
def test_leaving_one_out_reduces_the_variance(levels):
    model = BinaryChain(SIZES[levels])
    inference = is_inference(model)
    variances = []
    for objective in (without_baseline(4), ScoreFunction(4)):
        _, gradients = estimates(objective, model, an_x(), 20_000)
        assert largest_z(gradients, exact_gradient(model.exact_bound(an_x(), 1), model)) < Z_MAX
        variances.append(gradients[:, inference].var(0).sum())
    assert variances[1] < 0.5 * variances[0]


def test_bounds_without_each_against_a_loop():
    log_w = torch.randn(4, 3).double()
    for k in range(4):
        replaced = log_w.clone()
        replaced[k] = torch.cat([log_w[:k], log_w[k + 1 :]]).mean(0)
        expected = replaced.exp().mean(0).log()
        torch.testing.assert_close(bounds_without_each(log_w)[k], expected)


def test_no_path_is_left_in_the_draws():
    # Of a continuous model too: the score function must not be added to the path derivative.
    model = LinearGaussian([3, 2])
    trace = scored_at_fixed_draws(model, torch.randn(4, 3).double(), 2)
    assert not trace.z[0].requires_grad
    assert trace.log_qz_x.requires_grad


@pytest.mark.parametrize("objective", [ScoreFunction(2), VIMCO(2)], ids=repr)
def test_gradients_survive_autocast(objective):
    # A cache of half-precision weights must not hold those of the pass without gradients.
    model = LinearGaussian([3, 2]).float()
    network = torch.nn.Linear(3, 3)

    class Preceded(LinearGaussian):
        def forward(self, x, samples=1, zs=None):
            return model(network(x).float(), samples, zs)

    wrapper = Preceded([3, 2])
    wrapper.network, wrapper.inner = network, model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective(wrapper, torch.randn(8, 3)).sum().backward()
    assert network.weight.grad is not None and network.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("objective", [ScoreFunction, VIMCO])
def test_one_sample_is_refused(objective):
    with pytest.raises(ValueError, match="at least 2"):
        estimates(objective(1), BinaryChain([2, 3]), an_x(), 10)


def test_every_gradient_is_drawn_apart():
    model = BinaryChain([2, 3])
    copies = model.repeated(3)
    bound = ScoreFunction(2)(copies, an_x().expand(3, -1))
    gradients = flat(torch.autograd.grad(bound[0], list(copies.parameters())))
    assert gradients[0].any() and not gradients[1:].any()
