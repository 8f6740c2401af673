"""The numbers of a module on several devices, with accumulated batches, in other precisions, and compiled."""

from types import SimpleNamespace

import pytest
import torch
from test_modules import data, module, trainer

from latentlab.errors import UserError
from latentlab.lit import GradientModule
from latentlab.nn.compiled import compile_networks, networks
from latentlab.nn.mlp import MLP
from latentlab.objectives import STL, AnalyticELBO


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_test_bound_is_the_same_on_any_number_of_devices(monkeypatch, world):
    """Ranks one after the other in this process: their sums add up to those of one process."""
    whole = module()
    trainer().test(whole, data(), verbose=False)
    parts = []
    for rank in range(world):
        made, few = module(), data()
        monkeypatch.setattr(type(few), "_rank_world", (rank, world))
        made.trainer = SimpleNamespace(world_size=world, global_rank=rank)
        monkeypatch.setattr(GradientModule, "global_rank", rank)
        made.on_test_epoch_start()
        with torch.no_grad():
            for index, batch in enumerate(few.test_dataloader()):
                made.test_step(batch, index)
        parts.append(made.tally)
    assert sum(part.count for part in parts) == 110
    total = sum(part.totals.get("elbo", 0.0) for part in parts)
    assert total / 110 == pytest.approx(whole.results["test/elbo"], abs=1e-10)


def test_accumulated_batches_have_the_gradient_of_the_larger_one():
    """A deterministic bound: the objective at the posterior's mean, over 160 examples in batches of 80 and 160."""
    seen = {}
    for size, number in ((160, 1), (80, 2), (40, 4)):
        made = module(objective=Reconstructs())
        made.on_before_optimizer_step = lambda _, made=made, size=size: seen.setdefault(
            size, torch.cat([p.grad.flatten().clone() for p in made.parameters() if p.grad is not None])
        )
        trainer(max_epochs=1, limit_val_batches=0, accumulate_grad_batches=number).fit(
            made, data(batch_size=size)
        )
    assert seen[160].norm() > 1
    for size in (80, 40):
        assert torch.allclose(seen[size], seen[160], rtol=1e-4, atol=1e-4)


class Reconstructs(AnalyticELBO):
    """log p(x|z) at the mean of q(z|x): no draws."""

    def __call__(self, model, x):
        return model.likelihood(model.posterior(x).mean[None]).log_prob(x)[0]


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precisions_train_and_score(precision):
    made = module()
    trainer(max_epochs=1, precision=precision, limit_train_batches=2).fit(made, data())
    assert -600 < made.results["val/elbo"] < -300


def test_bounds_of_mixed_precision_are_those_of_an_evaluation_in_float32():
    made = module()
    trainer(max_epochs=1, precision="bf16-mixed", limit_train_batches=2).fit(made, data())
    trained, whole = dict(made.results), trainer()
    whole.validate(made, data(), verbose=False)
    assert made.results == trained
    trainer(precision="bf16-mixed").test(made, data(), verbose=False)
    mixed = made.results["test/elbo"]
    whole.test(made, data(), verbose=False)
    assert made.results["test/elbo"] == mixed


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # torch's own
@pytest.mark.parametrize("objective", [AnalyticELBO(), STL()])
def test_compiled_networks_keep_their_names_and_numbers(objective):
    plain, compiled = module(objective), module(objective)
    compile_networks(compiled.model, backend="eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert len(list(networks(compiled.model))) == 2
    assert all(isinstance(network, MLP) for network in networks(compiled.model))
    x = torch.bernoulli(torch.full((5, 1, 28, 28), 0.3))
    gradients = []
    for each in (plain, compiled):
        torch.manual_seed(3)
        objective(each.model, x).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in each.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)
    plain.load_state_dict(compiled.state_dict())


def test_models_that_cannot_be_compiled_are_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="has no networks"):
        compile_networks(torch.nn.Linear(1, 1))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        compile_networks(module().model)
