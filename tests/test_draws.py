"""Draws for many blocks in one pass: those of each block alone, whatever shares its pass."""

import pytest
import torch
from parts import assembled, built, examples, options
from torch.distributions import (
    Beta,
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    VonMises,
)
from zuko.transforms import DependentTransform, MonotonicAffineTransform

from latentlab import evaluation
from latentlab.batch import BLOCK, Batch
from latentlab.data.loader import EvaluationLoader
from latentlab.distributions import GumbelSoftmax, TransformedNormal
from latentlab.draws import Blocks, each_block, normal_like, reproducible
from latentlab.evaluation import EVALUATION_SEED, Passes, log_likelihoods, scored, terms
from latentlab.protocols import Threshold
from latentlab.trace import draw

CPU = torch.device("cpu")
SIZES = (5, 5, 2)
ROWS = [slice(0, 5), slice(5, 10), slice(10, 12)]
SEEDS = (7, 3, 11)
EXAMPLES = sum(SIZES)

# q(z|x) of parameters (*, B, D), whose last batch dimension is that of the examples.
FAMILIES = {
    "normal": lambda p: Independent(Normal(p, p.exp()), 1),
    "full_rank": lambda p: MultivariateNormal(p, scale_tril=p.exp().diag_embed()),
    "one_hot": lambda p: Independent(GumbelSoftmax(0.7, logits=torch.stack([p, 2 * p, -p], -1)), 1),
    "laplace": lambda p: Independent(Laplace(p, p.exp()), 1),
    "student": lambda p: Independent(StudentT(p.exp() + 1, p, p.exp()), 1),
    "beta": lambda p: Independent(Beta(p.exp(), p.exp() + 1), 1),
    "flow": lambda p: TransformedNormal(
        Independent(Normal(p, p.exp()), 1), DependentTransform(MonotonicAffineTransform(p.cos(), p.sin()), 1)
    ),
    "mixture": lambda p: MixtureSameFamily(Categorical(logits=p), Normal(p, p.exp())),
}


def alone(make, values, dim=0):
    """Two draws for each block alone, joined along the dimension `out`. The second continues the first."""
    drawn = []
    for seed, rows in zip(SEEDS, ROWS, strict=True):
        part = values[(*[slice(None)] * dim, rows)]
        with torch.no_grad(), reproducible(seed, CPU):
            drawn.append((make(part), make(part)))
    return drawn


def together(make, values):
    """Two draws for all blocks in one pass, and True if a draw was not for each block."""
    with torch.inference_mode(), reproducible(0, CPU), Blocks(SIZES, SEEDS, CPU) as blocks:
        return (make(values), make(values)), blocks.bypassed


def assert_same(make, values, dim=0, out=0):
    expected = alone(make, values, dim)
    found, bypassed = together(make, values)
    assert not bypassed
    for call in range(2):
        assert torch.equal(found[call], torch.cat([part[call] for part in expected], out))


@pytest.mark.parametrize("latents", [1, 3, EXAMPLES])
@pytest.mark.parametrize("samples", [None, 1, 3, EXAMPLES])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_has_the_draws_of_each_block_alone(family, samples, latents):
    q = FAMILIES[family]
    lead = () if samples is not None else (EXAMPLES,)  # of a layer above the first
    parameters = torch.randn(*lead, EXAMPLES, latents, generator=torch.Generator().manual_seed(0))
    assert_same(
        lambda part: draw(q(part), samples), parameters, dim=len(lead), out=len(lead) + (samples is not None)
    )


@pytest.mark.parametrize("width", [1, 7, EXAMPLES])
def test_noise_and_other_draws_are_those_of_each_block_alone(width):
    assert_same(normal_like, torch.zeros(EXAMPLES, 2, width))
    assert_same(
        lambda x: each_block(len(x), lambda n: torch.rand(1).expand(3, n), dim=1), torch.zeros(12), out=1
    )


def test_another_draw_is_noticed():
    x = torch.zeros(EXAMPLES, 2)
    assert together(torch.randn_like, x)[1]
    assert together(lambda x: draw(Normal(x[:4], 1.0)), x)[1]  # of other examples
    assert together(lambda x: draw(Independent(VonMises(x, 1.0 + x), 1), 3), x)[1]  # three numbers for each
    assert not together(torch.zeros_like, x)[1]


def test_the_random_state_is_restored():
    before = torch.get_rng_state()
    together(normal_like, torch.zeros(EXAMPLES, 2))
    assert torch.equal(torch.get_rng_state(), before)


# -- Passes of models


class Noisy(torch.nn.Module):
    """A model of one's own that draws from the global random state."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def observe(self, batch):
        return batch.x

    def forward(self, x):
        return x.flatten(1).sum(1) + torch.randn(len(x))


def images(n):
    return Batch(torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(n)), torch.zeros(n).long())


def test_a_model_with_other_draws_has_a_pass_for_each_block():
    model, sizes, seeds = Noisy(), [], [5, 9, 2]
    model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    batch = images(130)
    found = torch.cat(list(scored(model, [batch, batch], model, [*seeds, *seeds])))
    expected = []
    for seed, x in zip(seeds, batch.x.split(BLOCK), strict=True):
        with torch.inference_mode(), reproducible(seed, CPU):
            expected.append(Noisy()(x))
    assert torch.equal(found, torch.cat(expected).repeat(2))
    assert sizes[:7] == [130, 50, 50, 30, 50, 50, 30]  # the second batch tries no pass of several blocks


@pytest.mark.parametrize(("draws", "sizes"), [(1, [200, 30]), (2, [100, 100, 30]), (4, [50] * 4 + [30])])
def test_a_pass_has_as_many_blocks_as_its_draws_allow(draws, sizes):
    found = list(Passes(draws)(lambda batch: len(batch.y), images(230), iter(range(9))))
    assert found == sizes


@pytest.mark.parametrize("n", [1, 49, 50, 51])
def test_a_data_set_may_be_smaller_than_a_pass(n):
    assert [len(part) for part in scored(Noisy(), [images(n)], lambda x: x)] == [n]
    assert list(scored(Noisy(), [images(0)], lambda x: x)) == []


OTHERS = (
    "bbvi_normal_gamma",
    "advi_normal_gamma",
    "advi_earthquakes",
    "cavi_earthquakes",
    "cavi_normal_gamma",
    "gamma_mle",
    "mean_field_gaussian",
    "ppca",
    *("cavi_lda", "svi_lda", "em_mixture", "cavi_mixture", "svi_mixture"),
    *("flow", "expost", "expost_autoencoder"),  # one draws nothing, the others need a run and are VAEs
)


def joined(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("name", [name for name in options("model") if name not in OTHERS])
def test_the_scores_of_a_model_are_those_of_each_block_alone(name, monkeypatch):
    config = assembled(name)
    model = built(config).eval().model
    data = examples(Threshold(), n=BLOCK + 9)
    found, passes = [], []
    for most in (1, 200):  # rows of a pass
        monkeypatch.setitem(evaluation.PASS, "cpu", most)
        parts = list(terms(model, [data]))
        passes.append(len(parts))
        scores = joined(parts)
        if model.weighted and model.bounded:
            scores["log_px"] = torch.cat(list(log_likelihoods(model, [data], samples=3, chunk=1)))
        scores["z"] = torch.cat(list(scored(model, [data], model.encode)))
        found.append(scores)
    assert passes == [2, 1]
    # The same draws. Matrix products of other sizes may round differently.
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [50, 130, 1000])
def test_the_scores_do_not_depend_on_the_batch_size(batch_size):
    model = built(assembled("ladder_vae")).eval().model
    x, y = examples(Threshold(), n=130)
    expected = []
    for index, part in enumerate(x.split(BLOCK)):
        with torch.inference_mode(), reproducible(EVALUATION_SEED + BLOCK * index, CPU):
            expected.append(model.terms(part)["elbo"])
    found = joined(list(terms(model, EvaluationLoader(x, y, batch_size))))["elbo"]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-6, atol=0)
