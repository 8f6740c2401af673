"""Likelihoods: normalisation, and the data that they refuse."""

import pytest
import torch

from latentlab.data.protocols import PROTOCOLS
from latentlab.errors import UserError
from latentlab.likelihoods import BernoulliLikelihood, ContinuousBernoulliLikelihood


class Logits(torch.nn.Module):
    """A network that returns its input."""

    def __init__(self, in_shape, out_shape):
        super().__init__()

    def forward(self, z):
        return z


@pytest.mark.parametrize("logit", [-9.0, -0.3, -1e-3, 0.0, 1e-6, 1e-2, 0.8, 12.0])
def test_continuous_bernoulli_integrates_to_one(logit):
    # Near lambda = 1/2 the normaliser is a 0/0 that the distribution replaces by a Taylor expansion.
    likelihood = ContinuousBernoulliLikelihood(Logits, (1,), (1,))
    nodes, weights = torch.linspace(0, 1, 20_001).double(), torch.full((20_001,), 1 / 20_000).double()
    weights[[0, -1]] /= 2
    density = likelihood(torch.tensor([logit]).double()).log_prob(nodes[:, None]).exp()
    assert (weights * density).sum().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", [BernoulliLikelihood, ContinuousBernoulliLikelihood])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refuses_data_of_other_values(kind, protocol):
    likelihood = kind(Logits, (1,), (1,))
    if protocol.levels == kind.levels:
        likelihood.check(protocol())
    else:
        with pytest.raises(UserError, match=f"{kind.__name__} scores .* protocol={protocol.name} gives"):
            likelihood.check(protocol())
