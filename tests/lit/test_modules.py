"""The Lightning modules: exact scores, one negation, and training that does not depend on validation."""

import subprocess
import sys
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from oracles import tiny_vae
from torch.distributions import Distribution
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ConstantLR

from latentlab.batch import BLOCK, Batch
from latentlab.data import Digits, Images, Splits
from latentlab.draws import reproducible
from latentlab.errors import Diverged, UserError
from latentlab.evaluation import EVALUATION_SEED, PASS
from latentlab.lit import GradientModule
from latentlab.lit.gradient import shares
from latentlab.lit.schedulers import IWAEStages
from latentlab.objectives import ELBO, IWAE, STL, VIMCO, AnalyticELBO, BetaELBO, Clock, DReG, ScoreFunction
from latentlab.protocols import Threshold
from latentlab.tracking.csv_logger import CSVMetrics

ADAM = partial(Adam, lr=1e-3)
CONSTANT = partial(ConstantLR, factor=1.0, total_iters=0)
N_TRAIN = 160


class FewDigits(Digits):
    """160 digits to train, 70 to validate and 110 to test."""

    def read(self):
        train, test, _ = super().read()
        kept = Images(train.x[: N_TRAIN + 70], train.y[: N_TRAIN + 70])
        return Splits(kept, Images(test.x[:110], test.y[:110]))


def data(**options):
    return FewDigits(Threshold(), **{"batch_size": 32, "val_size": 70, "eval_batch_size": 100} | options)


def module(objective=None, optimizer=ADAM, scheduler=CONSTANT, **options):
    torch.manual_seed(0)
    vae = tiny_vae(latent_dim=2, x_shape=(1, 28, 28)).float()
    return GradientModule(vae, objective or AnalyticELBO(), optimizer, scheduler, **options)


def trainer(logger=False, **options):
    settings = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": logger}
    settings |= {
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    settings |= {"use_distributed_sampler": False, "log_every_n_steps": 2}
    return pl.Trainer(**settings | options)


def fit(made, few=None, **options):
    torch.manual_seed(1)
    trainer(**options).fit(made, few or data())
    return torch.cat([p.detach().flatten() for p in made.parameters()])


# -- Exact scores


def test_the_test_bound_is_the_mean_over_the_whole_set_in_float64():
    made, few = module(), data()
    trainer().test(made, few, verbose=False)
    x = few.protocol(few.test.x, None)
    bounds = []
    for start in range(0, len(x), BLOCK):
        with reproducible(EVALUATION_SEED + start, torch.device("cpu")), torch.no_grad():
            bounds.append(made.model.terms(x[start : start + BLOCK])["elbo"].double())
    exact = torch.cat(bounds)
    assert len(exact) == made.results["test/num_examples"] == 110
    assert made.results["test/elbo"] == pytest.approx(exact.mean().item(), abs=1e-9)
    assert made.results["test/elbo_stderr"] == pytest.approx(
        exact.std(correction=0).item() / 110**0.5, rel=1e-9
    )


@pytest.mark.parametrize("batch_size", [50, 60, 110, 1000])
def test_the_test_bound_does_not_depend_on_the_batch_size(batch_size):
    one, other = module(), module()
    trainer().test(one, data(), verbose=False)
    trainer().test(other, data(eval_batch_size=batch_size), verbose=False)
    assert other.results["test/elbo"] == pytest.approx(one.results["test/elbo"], abs=1e-4)


def test_more_draws_have_less_error_not_another_mean():
    one, many = module(), module(eval_samples=50)
    trainer().test(one, data(), verbose=False)
    trainer().test(many, data(), verbose=False)
    assert many.results["test/elbo"] == pytest.approx(one.results["test/elbo"], abs=1)
    assert many.results["test/elbo"] != one.results["test/elbo"]


def test_a_part_of_the_test_set_is_refused():
    with pytest.raises(UserError, match="100 examples of 110"):
        trainer(limit_test_batches=1).test(module(), data(), verbose=False)


def test_a_part_of_the_validation_set_is_counted():
    made = module()
    trainer(limit_val_batches=1).fit(made, data(eval_batch_size=50))
    assert made.results["val/num_examples"] == 50


# -- The trained objective in validation


def validated(objective, **options):
    """The results of a validation, and the number of forward passes."""
    made, passes = module(objective), []
    made.model.register_forward_hook(lambda *call: passes.append(call))
    trainer().validate(made, data(**options), verbose=False)
    return made, len(passes)


SAME = (ELBO(), STL(), ScoreFunction(), BetaELBO(warmup_epochs=3), IWAE(samples=1), DReG(samples=1))


@pytest.mark.parametrize("objective", SAME, ids=lambda each: type(each).__name__)
def test_an_objective_whose_value_is_the_bound_has_one_name_and_one_pass(objective):
    made, passes = validated(objective)
    reference, _ = validated(AnalyticELBO())
    assert made.monitor == "val/elbo" and made.results == reference.results
    assert passes == 1  # two blocks of 70 examples


@pytest.mark.parametrize("objective", [IWAE(samples=5), DReG(samples=5), VIMCO(samples=5)])
@pytest.mark.parametrize("batch_size", [50, 100])
def test_the_importance_weighted_bound_is_validated_exactly(objective, batch_size):
    made, passes = validated(objective, eval_batch_size=batch_size)
    x, bounds = made.data.protocol(made.data.val.x, None), []
    for start in range(0, len(x), BLOCK):
        with reproducible(EVALUATION_SEED + start, torch.device("cpu")), torch.no_grad():
            block = x[start : start + BLOCK]
            made.model.terms(block)
            bounds.append(IWAE(samples=5)(made.model, block).double())
    assert made.monitor == "val/iwae" and passes == 4
    assert made.results["val/iwae"] == pytest.approx(torch.cat(bounds).mean().item(), abs=1e-9)
    assert made.results["val/iwae"] > made.results["val/elbo"]


class Coupled(ELBO):
    """A value that depends on the number of examples in the batch."""

    bound = "coupled"

    def __call__(self, model, x):
        return super().__call__(model, x) * 0 + len(x)


class Stated(Coupled):
    separable = True


class Derived(Stated):
    """A subclass, which may couple the examples, of an objective that does not."""


@pytest.mark.parametrize("kind", [Coupled, Derived])
@pytest.mark.parametrize("rows", [200, 10_000])
def test_coupled_examples_are_validated_in_blocks(kind, rows, monkeypatch):
    monkeypatch.setitem(PASS, "cpu", rows)
    made, passes = validated(kind())
    assert made.results["val/coupled"] == pytest.approx((50 * 50 + 20 * 20) / 70)
    assert passes == 4
    assert made.results["val/elbo"] == validated(AnalyticELBO())[0].results["val/elbo"]


def test_an_objective_that_states_it_is_validated_in_one_pass():
    made, passes = validated(Stated())
    assert made.results["val/coupled"] == 70 and passes == 2


@pytest.mark.parametrize(
    ("options", "charged"),
    [
        ({"beta": 0.25}, lambda kl: 0.25 * kl),
        ({"beta": 3.0, "warmup_epochs": 5}, lambda kl: 3 * kl),
        ({"free_bits": 1e3}, lambda kl: 1e3),
        ({"free_bits": 1e-9, "beta": 2.0}, lambda kl: 2 * kl),
    ],
)
def test_the_weighted_bound_is_validated_with_its_final_weight(options, charged):
    made, passes = validated(BetaELBO(**options))
    found = made.results
    expected = found["val/reconstruction"] - charged(found["val/kl"])
    assert made.monitor == "val/beta_elbo" and passes == 1
    assert found["val/beta_elbo"] == pytest.approx(expected, abs=1e-5)
    assert found["val/elbo"] == pytest.approx(found["val/reconstruction"] - found["val/kl"], abs=1e-5)


# -- Evaluation and training


def test_evaluation_leaves_the_generators_as_they_were():
    before = torch.random.get_rng_state()
    made = module()
    torch.random.set_rng_state(before)
    trainer().test(made, data(), verbose=False)
    trainer().validate(made, data(), verbose=False)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_does_not_depend_on_when_it_is_validated():
    often = fit(module(), max_epochs=4)
    assert torch.equal(fit(module(), max_epochs=4, check_val_every_n_epoch=2), often)
    assert torch.equal(fit(module(eval_samples=3), data(eval_batch_size=7), max_epochs=4), often)
    assert torch.equal(fit(module(), max_epochs=4), often)
    assert not torch.equal(fit(module(), data(seed=1), max_epochs=4), often)


@pytest.mark.parametrize("objective", [ELBO(), AnalyticELBO(samples=3), IWAE(samples=5)])
def test_the_bound_is_negated_once(monkeypatch, objective):
    made = module(objective)
    trainer().validate(made, data(), verbose=False)
    x = torch.bernoulli(torch.full((6, 1, 28, 28), 0.3))
    torch.manual_seed(3)
    monkeypatch.setattr(GradientModule, "clock", Clock(0, 1))
    loss = made.training_step(Batch(x, torch.zeros(6)), 0)
    torch.manual_seed(3)
    assert loss.item() == pytest.approx(-objective(made.model, x).mean().item(), rel=1e-6)
    assert loss.item() > 0


def test_training_raises_the_bound():
    made = module()
    fit(made, max_epochs=1)
    first = made.results["val/elbo"]
    fit(made, max_epochs=10, check_val_every_n_epoch=10)
    assert made.results["val/elbo"] > first + 10


def test_the_trained_bound_is_logged_every_n_steps_under_its_name(tmp_path):
    fit(module(IWAE(samples=2)), logger=[CSVMetrics(str(tmp_path))])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert [int(row["step"]) for row in rows if row["train/iwae"]] == [1, 3, 5, 7, 9]
    assert [row["epoch"] for row in rows if row["val/elbo"]] == ["0", "1"]
    assert "train/elbo" not in rows[0]


def test_divergence_ends_training_before_it_is_logged(tmp_path):
    made = module(optimizer=partial(SGD, lr=1e30))
    Distribution.set_default_validate_args(False)  # as in training
    with pytest.raises(Diverged, match=r"the bound is (nan|-?inf) at epoch 1, step \d.*optimizer\.lr"):
        fit(made, logger=[CSVMetrics(str(tmp_path))])
    csv = tmp_path / "metrics.csv"
    assert not csv.exists() or "nan" not in csv.read_text()


# -- Optimisers


def test_an_optimiser_step_is_described():
    assert shares(128, 1, 1) == ""
    assert shares(128, 2, 1) == "batches of 128: 64 on each of 2 devices"
    assert shares(32, 3, 2).endswith(
        "10 or 11 on each of 3 devices; 2 batches of 32 accumulated: 64 examples a step"
    )


def test_gradients_are_clipped():
    """A step of gradient descent with learning rate 1 is as long as the clipped gradient."""
    start = torch.cat([p.detach().flatten() for p in module().parameters()])
    options = {"max_epochs": 1, "overfit_batches": 1}
    for clip in (0.1, 1.0):
        end = fit(
            module(optimizer=partial(SGD, lr=1.0)), gradient_clip_val=clip, limit_val_batches=0, **options
        )
        assert (end - start).norm().item() == pytest.approx(clip, rel=1e-3)


def test_gradients_accumulate_over_batches():
    made = module(optimizer=partial(SGD, lr=1e-3))
    seen = []
    made.on_before_optimizer_step = lambda optimizer: seen.append(made.clock)
    fit(made, max_epochs=2, accumulate_grad_batches=2)
    assert seen == [Clock(step, 3) for step in range(6)]  # five batches: the last one alone


def test_stages_of_the_iwae_paper():
    """3^i epochs at 1e-3 * 10^(-i/7) for i = 0, ..., 7 (Burda et al. 2016, section 5)."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = IWAEStages(optimizer)
    rates = []
    for _ in range(3280 + 5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    wanted = [1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert len(wanted) == 3280
    assert rates == pytest.approx([*wanted, *[1e-4] * 5])
    starts = [rates.index(rate) for rate in sorted(set(rates), reverse=True)]
    assert starts == [0, 1, 4, 13, 40, 121, 364, 1093]


def test_the_scheduler_steps_once_an_epoch():
    made = module(scheduler=partial(IWAEStages, stages=3))
    rates = []
    made.on_train_epoch_start = lambda: rates.append(made.optimizers().param_groups[0]["lr"])
    fit(made, max_epochs=5)
    assert rates == pytest.approx([1e-3 * 10 ** (-i / 2) for i in (0, 1, 1, 1, 2)])


@pytest.mark.parametrize(
    "broken", [{"optimizer": partial(SGD, lr=-1.0)}, {"optimizer": partial(Adam, betas=(2, 0))}]
)
def test_a_value_that_the_optimiser_refuses_is_one_line(broken):
    with pytest.raises(UserError, match="optimizer or scheduler: Invalid"):
        fit(module(**broken))


# -- Imports


def test_models_import_neither_lightning_nor_hydra():
    code = (
        "import sys, latentlab.models.vae, latentlab.objectives;"
        "print([name for name in ('pytorch_lightning', 'hydra', 'wandb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
