"""The noise of a gradient agrees with its definition, and measuring it leaves training alone."""

import logging
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from linear_gaussian import LinearGaussian
from oracles import tiny_vae
from torch.optim.lr_scheduler import ConstantLR

from latentlab.callbacks import GradientVariance
from latentlab.callbacks.gradient_variance import gradient_statistics
from latentlab.data import Digits
from latentlab.errors import UserError
from latentlab.lit import GradientModule
from latentlab.nn.mlp import MLP
from latentlab.objectives import ELBO, STL, AnalyticELBO, ScoreFunction
from latentlab.protocols import Threshold


def test_against_the_definition():
    parameters = [torch.randn(3, 2).double().requires_grad_(), torch.randn(2).double().requires_grad_()]
    noise = torch.randn(50, 4, 8).double()
    draws = iter(noise)

    def bound():
        flat = torch.cat([p.flatten() for p in parameters])
        return (next(draws) + 0.5) @ flat

    measured = gradient_statistics(bound, parameters, 50)
    gradients = noise.mean(1) + 0.5  # (50, 8), of the mean over the batch
    variance = gradients.var(0).sum()
    signal = (gradients.mean(0) ** 2).sum() - variance / 50
    assert measured.variance == pytest.approx(variance.item())
    assert measured.norm == pytest.approx(gradients.norm(dim=1).mean().item())
    assert measured.snr == pytest.approx((signal / variance).sqrt().item())


def test_at_the_exact_posterior_the_path_derivative_has_no_noise():
    model = LinearGaussian([3, 2, 2])
    model.make_posterior_exact()
    x = torch.randn(4, 3).double()
    elbo, stl = (
        gradient_statistics(partial(objective, model, x), list(model.inference_parameters()), 50)
        for objective in (ELBO(), STL())
    )
    assert stl.variance < 1e-24 < 1e-3 < elbo.variance
    assert stl.snr < 1.0


def train(folder, callbacks=(), objective=None, epochs=3):
    torch.manual_seed(0)
    network = partial(MLP, hidden=(8,))
    model = tiny_vae(2, x_shape=(1, 28, 28), encoder=network, decoder=network).float()
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    module = GradientModule(model, objective or AnalyticELBO(), optimizer, partial(ConstantLR, factor=1.0))
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, Digits(Threshold(), batch_size=400))
    return module, trainer


def test_training_is_left_as_it_is(tmp_path):
    plain, _ = train(tmp_path)
    before = torch.get_rng_state()
    measured, _ = train(tmp_path, [GradientVariance(every_n_epochs=1, repeats=3, compare={"stl": STL()})])
    assert torch.equal(torch.get_rng_state(), before)
    assert measured.model.training
    for a, b in zip(plain.parameters(), measured.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_logged_variances(tmp_path, caplog):
    compare = {"stl": STL(), "same": AnalyticELBO()}
    with caplog.at_level(logging.INFO, logger="latentlab"):
        _, trainer = train(tmp_path, [GradientVariance(every_n_epochs=2, repeats=4, compare=compare)])
    names = [
        f"train/gradient_{key}{of}" for key in ("variance", "norm", "snr") for of in ("", "_stl", "_same")
    ]
    metrics = {name: trainer.callback_metrics[name].item() for name in names}
    assert all(value > 0 for name, value in metrics.items() if "snr" not in name)
    # Under the same draws the same objective gives the same number.
    assert metrics["train/gradient_variance_same"] == metrics["train/gradient_variance"]
    lines = [r.message for r in caplog.records if r.name == "latentlab.callbacks.gradient_variance"]
    assert len(lines) == 2  # after epoch 2, and after 3, the last
    assert (
        lines[0].startswith("gradient variance ") and "stl " in lines[0] and "same 1 times that" in lines[0]
    )


def test_a_comparison_that_is_not_defined_is_refused(tmp_path):
    class WithoutPath(type(tiny_vae())):
        reparametrised = False

    module, _ = train(tmp_path, objective=ScoreFunction(), epochs=1)
    module.model.__class__ = WithoutPath
    with pytest.raises(
        UserError, match=r"compare\.stl: STL differentiates.*~callbacks\.gradient_variance\.compare\.stl"
    ):
        GradientVariance(compare={"stl": STL()}).setup(None, module, "fit")
    module.model = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="Linear trains no inference network"):
        GradientVariance().setup(None, module, "fit")
