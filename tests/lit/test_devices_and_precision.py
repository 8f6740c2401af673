"""The numbers of a module on several devices, with accumulated batches, in other precisions, and compiled."""

from types import SimpleNamespace

import pytest
import torch
from test_modules import data, fit, module, trainer
from torch.distributions import Distribution

from latentlab.classical.normal_gamma import CAVINormalGamma
from latentlab.errors import UserError
from latentlab.lit import ClassicalModule, GradientModule
from latentlab.lit.compiled import compile_objective
from latentlab.objectives import STL, AnalyticELBO, BetaELBO


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_test_bound_is_the_same_on_any_number_of_devices(monkeypatch, world):
    """Ranks one after the other in this process: their sums add up to those of one process.

    In float64, because the products of passes of other sizes are rounded otherwise.
    """
    whole = module()
    trainer(precision="64-true").test(whole, data(), verbose=False)
    parts = []
    for rank in range(world):
        made, few = module().double(), data()
        monkeypatch.setattr(type(few), "_rank_world", (rank, world))
        made.trainer = SimpleNamespace(world_size=world, global_rank=rank)
        monkeypatch.setattr(GradientModule, "global_rank", rank)
        made.on_test_epoch_start()
        with torch.no_grad():
            for index, batch in enumerate(few.test_dataloader()):
                made.test_step(batch._replace(x=batch.x.double()), index)
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


@pytest.mark.parametrize("objective", [BetaELBO(warmup_epochs=2), STL()])
def test_a_compiled_objective_trains_the_same_weights(monkeypatch, objective):
    """Two graphs for the two sizes of a batch, and one more for a weight that changes at every step."""
    monkeypatch.setattr(Distribution, "_validate_args", False)  # as in training
    plain, compiled, graphs = module(objective), module(objective), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compile_objective(compiled, backend=backend)
    for each in (plain, compiled):
        fit(each, data(batch_size=50))
    assert len(graphs) == (3 if isinstance(objective, BetaELBO) else 2)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert all(map(torch.equal, compiled.state_dict().values(), plain.state_dict().values()))


def test_training_that_cannot_be_compiled_is_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="not trained by gradients"):
        compile_objective(ClassicalModule(CAVINormalGamma()))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        compile_objective(module())
