"""The initialisation of a model with training images, before the first step."""

from functools import partial

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import LambdaLR

from latentlab.data import Digits
from latentlab.likelihoods import BernoulliLikelihood
from latentlab.lit import GradientModule
from latentlab.models.vae import VAE
from latentlab.nn.mlp import Linear
from latentlab.objectives import AnalyticELBO
from latentlab.posteriors import DiagonalNormalPosterior
from latentlab.priors import VampPrior
from latentlab.protocols import Threshold


def fit(tmp_path, likelihood, **options):
    torch.manual_seed(0)
    prior = partial(VampPrior, num_components=5)
    model = VAE(2, Linear, Linear, DiagonalNormalPosterior, likelihood, prior)
    optimizer = partial(torch.optim.SGD, lr=0.0)
    module = GradientModule(model, AnalyticELBO(), optimizer, partial(LambdaLR, lr_lambda=lambda epoch: 1.0))
    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    data = Digits(Threshold(), batch_size=8, val_size=270)
    trainer.fit(module, data, **options)
    return trainer, model, data


def test_model_starts_from_the_training_images_without_a_draw(tmp_path):
    _, plain, _ = fit(tmp_path, BernoulliLikelihood)
    state = torch.get_rng_state()
    trainer, model, data = fit(tmp_path, partial(BernoulliLikelihood, initialise_bias=True))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(plain.posterior.network.layers[0].weight, model.posterior.network.layers[0].weight)
    means = data.train.x.gt(127).float().mean(0)  # of all images, as there are fewer than FIRST_EXAMPLES
    torch.testing.assert_close(model.likelihood.offset.sigmoid(), means.clamp(1e-3, 1 - 1e-3))
    assert ((model.prior.pseudo_inputs - 0.5).abs() > 0.4).all()  # binary images, not the mean

    # A resumed model is not initialised again.
    path = tmp_path / "resumed.ckpt"
    with torch.no_grad():
        model.likelihood.offset.fill_(0.25)
    trainer.save_checkpoint(path)
    _, resumed, _ = fit(
        tmp_path, partial(BernoulliLikelihood, initialise_bias=True), ckpt_path=path, weights_only=True
    )
    assert (resumed.likelihood.offset == 0.25).all()
