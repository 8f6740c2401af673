"""The VAE with a diffusion as its prior: its bound against closed forms, its gradients, its pre-trained parts."""

import math
from functools import partial
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from commands import call, refusal
from oracles import Z_MAX, largest_z
from parts import composed
from runs import load, summary
from torch.distributions import Normal
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR

from latentlab.data import Digits, Images, Splits
from latentlab.errors import UserError
from latentlab.likelihoods import BernoulliLikelihood
from latentlab.lit import GradientModule
from latentlab.models.latent_vdm import LatentDDPM, LatentVDM
from latentlab.models.vae import VAE
from latentlab.nn.denoisers import MLPDenoiser
from latentlab.nn.mlp import MLP
from latentlab.objectives import IWAE, STL, VLB, BetaELBO, Clock, LatentDiffusion
from latentlab.posteriors import DiagonalNormalPosterior, GumbelSoftmaxPosterior
from latentlab.priors import StandardNormalPrior
from latentlab.protocols import Threshold
from latentlab.schedules import LinearSchedule

SHAPE = (1, 3, 3)
PARTS = {
    "latent_dim": 2,
    "encoder": partial(MLP, hidden=(8,), activation=torch.nn.Tanh),
    "decoder": partial(MLP, hidden=(8,), activation=torch.nn.Tanh),
    "posterior": DiagonalNormalPosterior,
    "likelihood": BernoulliLikelihood,
    "x_shape": SHAPE,
}
GAMMA = -3.0  # so much noise at t = 0 that the gap of the bound is visible


def latent_vdm(gamma_min=GAMMA, gamma_max=4.0, **options):
    """A LatentVDM whose denoiser starts as the optimal one of standard normal latents."""
    schedule = LinearSchedule(gamma_min, gamma_max)
    denoiser = partial(MLPDenoiser, width=8, blocks=1, embedding=8)
    return LatentVDM(noise_schedule=schedule, denoiser=denoiser, **PARTS | options).double()


def twin(model):
    """The VAE with the same encoder and decoder, and the prior N(0, I)."""
    vae = VAE(prior=StandardNormalPrior, **PARTS).double()
    vae.posterior.load_state_dict(model.posterior.state_dict())
    vae.likelihood.load_state_dict(model.likelihood.state_dict())
    return vae


def images(n):
    return torch.bernoulli(torch.full((n, *SHAPE), 0.4, dtype=torch.float64))


def log_prior(model, z):
    """An unbiased estimate of the bound on log p(z) for z (N, D), (N,)."""
    return model.log_resolution - model.diffusion.prior_kl(z) - model.diffusion.loss(z, model.steps)


def bound_of_standard_normal(z, gamma=GAMMA):
    r"""The exact bound on $\log N(z; 0, I)$, integrated over t. Its gap is the cost of the least noise."""
    noise = 1 / (1 + math.exp(-gamma))
    dims = math.log(2 * math.pi) + noise + math.log1p(math.exp(gamma))
    return -0.5 * ((1 - noise) * z.square() + dims).sum(-1)


def test_the_bound_on_log_p_z_is_the_exact_one_in_expectation():
    model = latent_vdm()
    for point in ([0.0, 0.0], [1.5, -0.5], [0.3, 2.5]):
        z = torch.tensor(point, dtype=torch.float64)
        estimates = torch.stack([log_prior(model, z.expand(500, 2)).mean() for _ in range(40)])
        assert largest_z(estimates, bound_of_standard_normal(z)) < Z_MAX


def test_the_bound_approaches_log_p_z_as_the_least_noise_vanishes():
    z = torch.randn(5, 2, dtype=torch.float64)
    exact = Normal(0, 1).log_prob(z).sum(-1)
    gaps = [(exact - bound_of_standard_normal(z, gamma)).abs().max() for gamma in (-3.0, -6.0, -12.0)]
    assert gaps[0] > 1e-2 and gaps[1] < gaps[0] / 15 and gaps[2] < gaps[1] / 300


def test_the_bound_is_the_vaes_with_a_standard_normal_prior():
    model, x = latent_vdm(gamma_min=-12.0), images(4)
    vae = twin(model)
    exact = vae.terms(x, samples=20_000)["elbo"]
    many = x.repeat(500, 1, 1, 1)  # separate draws for each
    found = torch.stack([model.terms(many)["elbo"].view(500, 4).mean(0) for _ in range(40)])
    assert largest_z(found, exact) < Z_MAX


def test_gradients_of_the_encoder_run_through_the_diffusion():
    model = latent_vdm()
    z = torch.tensor([1.5, -0.5], dtype=torch.float64)
    many = z.repeat(20_000, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(log_prior(model, many).sum(), many)
    noise = 1 / (1 + math.exp(-GAMMA))
    assert largest_z(gradient.view(100, 200, 2).mean(1), -(1 - noise) * z) < Z_MAX


def test_the_objective_trains_every_part():
    model = latent_vdm()
    torch.nn.init.normal_(model.diffusion.denoiser.out.weight)
    torch.nn.init.normal_(model.diffusion.denoiser.blocks[0].second.weight)
    VLB()(model, images(8)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_terms_add_up():
    terms = latent_vdm().terms(images(5), samples=3)
    torch.testing.assert_close(terms["elbo"], terms["reconstruction"] - terms["kl"])
    parts = terms["kl_prior"] + terms["kl_latent"] + terms["kl_diffusion"]
    torch.testing.assert_close(terms["kl"], parts)


def test_samples_of_the_prior_have_the_variance_of_their_steps():
    model = latent_vdm(sample_steps=20)
    variance = 1.0
    gammas = model.diffusion.noise_schedule(torch.linspace(1, 0, 21, dtype=torch.float64)).gamma
    for t, s in pairwise(gammas):  # z_s given z_t is linear in it, and so all are normal
        c = -torch.expm1(s - t)
        variance = (-s).sigmoid() / (-t).sigmoid() * (1 - c * t.sigmoid()) ** 2 * variance + c * s.sigmoid()
    variance = variance / (-gammas[-1]).sigmoid() + gammas[-1].exp()
    z = model.sample_prior(20_000)
    assert largest_z(z, torch.zeros(2)) < Z_MAX
    assert largest_z(z.square(), variance) < Z_MAX


def test_means_and_samples_share_their_latents():
    model = latent_vdm(sample_steps=5)
    drawn = []
    for mean in (False, True):
        torch.manual_seed(1)
        drawn.append(model.generate(2000, mean=mean))
    assert set(drawn[0].unique().tolist()) == {0.0, 1.0}
    assert largest_z(drawn[0] - drawn[1], torch.zeros(SHAPE)) < Z_MAX


def test_a_frozen_vae_stays_as_it_was():
    trained = twin(latent_vdm())
    model = latent_vdm(pretrained="vae.ckpt", freeze=True)
    model.adopt(trained.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    VLB()(model, images(8)).mean().neg().backward()
    optimizer.step()
    for part in ("posterior", "likelihood"):
        for key, value in getattr(trained, part).state_dict().items():
            assert torch.equal(getattr(model, part).state_dict()[key], value)
    assert model.diffusion.denoiser.out.bias.any()


def test_a_state_of_another_model_is_refused():
    model = latent_vdm(pretrained="other.ckpt")
    with pytest.raises(UserError, match=r"model\.pretrained=other\.ckpt is not a VAE's"):
        model.adopt({"diffusion.denoiser.weight": torch.zeros(1)})
    other = twin(latent_vdm()).state_dict()
    shorter = {name: value[:1] for name, value in other.items()}
    with pytest.raises(UserError, match=r"model\.pretrained=other\.ckpt has other networks") as caught:
        model.adopt(shorter)
    assert "\n" not in str(caught.value)


class FewDigits(Digits):
    """Sixteen digits each for training, validation and test."""

    def read(self):
        train, test, _ = super().read()
        return Splits(Images(train.x[:32], train.y[:32]), Images(test.x[:16], test.y[:16]))


def test_a_resumed_run_needs_the_pretrained_vae_no_more(tmp_path):
    whole = {"x_shape": (1, 28, 28)}
    vae = VAE(prior=StandardNormalPrior, **PARTS | whole)
    weights = {f"model.{k}": v for k, v in vae.state_dict().items()}
    torch.save({"state_dict": weights, "global_step": 0, "epoch": 0}, tmp_path / "vae.ckpt")
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "num_sanity_val_steps": 0}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}

    def trained(epochs, **resumed):
        model = latent_vdm(pretrained=str(tmp_path / "vae.ckpt"), freeze=True, **whole).float()
        module = GradientModule(model, VLB(), partial(SGD, lr=1e-4), partial(ConstantLR, factor=1.0))
        trainer = pl.Trainer(max_epochs=epochs, use_distributed_sampler=False, log_every_n_steps=1, **options)
        trainer.fit(module, FewDigits(Threshold(), batch_size=16, val_size=16), **resumed)
        return trainer, model

    trainer, model = trained(1)
    assert all(map(torch.equal, model.posterior.parameters(), vae.posterior.parameters()))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "vae.ckpt").unlink()
    trainer, model = trained(2, ckpt_path=tmp_path / "last.ckpt")
    assert trainer.current_epoch == 2
    assert all(map(torch.equal, model.likelihood.parameters(), vae.likelihood.parameters()))


def test_less_than_one_step_is_refused():
    with pytest.raises(UserError, match="steps=0"):
        latent_vdm().generate(2, steps=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"freeze": True}, "model.pretrained="), ({"posterior": GumbelSoftmaxPosterior}, "diagonal_normal")],
)
def test_options_that_contradict_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        latent_vdm(**options)


@pytest.mark.parametrize("objective", [IWAE(5), STL()])
def test_objectives_that_score_latents_are_refused(objective):
    with pytest.raises(UserError, match="objective=vlb"):
        objective.check(latent_vdm())


def test_the_likelihood_is_not_estimated():
    assert not LatentVDM.weighted


def test_the_bound_of_standardised_latents_is_the_vaes_with_their_moments_as_the_prior():
    # The denoiser starts as the optimal one of standard normal u, so p(z) = N(m, s^2).
    model, x = latent_vdm(gamma_min=-12.0, standardise=True), images(4)
    shift, scale = (torch.tensor(pair, dtype=torch.float64) for pair in ([0.5, -1.0], [0.1, 3.0]))
    model.set_moments(shift, scale**2 + shift**2)
    q = model.posterior(x).base_dist
    kl = torch.distributions.kl_divergence(q, Normal(shift, scale)).sum(-1)
    many = x.repeat(500, 1, 1, 1)
    found = torch.stack([model.terms(many)["kl"].view(500, 4).mean(0) for _ in range(40)])
    assert largest_z(found, kl) < Z_MAX


def test_samples_of_standardised_latents_have_their_moments():
    model = latent_vdm(gamma_min=-12.0, standardise=True, sample_steps=100)
    shift, scale = (torch.tensor(pair, dtype=torch.float64) for pair in ([0.5, -1.0], [0.1, 3.0]))
    model.set_moments(shift, scale**2 + shift**2)
    z = model.sample_latents(2000)
    assert torch.allclose(z.std(0), scale, rtol=0.1)
    assert (((z.mean(0) - shift) / scale).abs() < 0.1).all()


def test_latents_are_standardised_by_the_moments_of_q_over_the_first_examples():
    model, x = latent_vdm(standardise=True), images(50)
    model.initialise(x)
    draws = torch.stack([model.encode(x) for _ in range(400)]).flatten(0, 1)
    assert torch.allclose(model.shift, draws.mean(0), atol=0.05)
    assert torch.allclose(model.scale, draws.std(0), rtol=0.05)
    assert "scale" in model.state_dict() and "scale" not in latent_vdm().state_dict()


def latent_ddpm():
    schedule = LinearSchedule(-12.0, 4.0)
    denoiser = partial(MLPDenoiser, width=8, blocks=1, embedding=8)
    return LatentDDPM(noise_schedule=schedule, denoiser=denoiser, momentum=0.5, **PARTS).double()


def test_a_vae_is_trained_first_and_then_the_diffusion_of_its_fixed_latents():
    model, x, objective = latent_ddpm(), images(6), LatentDiffusion(beta=0.3, autoencoder_epochs=2)
    vae, diffusion = objective.at(Clock(5, 3)), objective.at(Clock(6, 3))
    assert not vae.diffusing and diffusion.diffusing
    model.anneal(0)
    vae(model, x).sum().backward()
    assert all(p.grad is None for p in model.diffusion.parameters())
    assert all(p.grad is not None for p in model.posterior.parameters())
    assert (model.scale != 1).all() and not model.diffusing
    before = {name: value.clone() for name, value in model.state_dict().items() if name != "diffusing"}
    model.zero_grad()
    diffusion(model, x).sum().backward()
    assert any(p.grad is not None for p in model.diffusion.parameters())
    assert all(p.grad is None for p in (*model.posterior.parameters(), *model.likelihood.parameters()))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert model.diffusing and diffusion.final and not vae.final


def test_the_vae_is_trained_on_the_beta_elbo():
    model, x = latent_ddpm(), images(6)
    torch.manual_seed(0)
    LatentDiffusion(beta=0.3, autoencoder_epochs=1)(model, x).sum().backward()
    found = [p.grad.clone() for p in model.posterior.parameters()]
    vae = twin(model)
    torch.manual_seed(0)
    BetaELBO(beta=0.3)(vae, x).sum().backward()
    expected = [p.grad for p in vae.posterior.parameters()]
    assert all(map(torch.allclose, found, expected))


@pytest.mark.parametrize("model", ["latent_vdm", "latent_ddpm"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "learned", "linear_beta"])
def test_every_schedule_starts_with_the_least_noise_of_standardised_latents(model, schedule):
    chosen = composed(f"model={model}", f"noise_schedule={schedule}", "prediction=v").module.model
    assert chosen.noise_schedule.gamma_min == -10 and chosen.prediction._target_.endswith(".Velocity")


SHORT = (
    *("model=latent_ddpm", "data=binarised_digits", "logger=none", "figures=none", "model.latent_dim=2"),
    *("encoder.hidden=[16]", "decoder.hidden=[16]", "denoiser.width=8"),
    *("+trainer.limit_train_batches=3", "trainer.log_every_n_steps=1"),
)


def test_a_diffusion_that_could_not_begin_is_refused(tmp_path):
    words = ("objective.autoencoder_epochs=2", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/run")
    said = refusal(call("train.py", *SHORT, *words))
    assert "objective.autoencoder_epochs=2" in said and not (tmp_path / "run").exists()


def test_the_vaes_epochs_stop_nothing_and_the_best_checkpoint_has_a_diffusion_of_its_own_vae(tmp_path):
    words = (
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "callbacks.best.monitor=val/elbo",
    )
    words = (*words, "+callbacks.ema={_target_:latentlab.callbacks.EMA,decay:0.99}")
    words = (*words, "objective.autoencoder_epochs=5", "trainer.max_epochs=6", "objective.beta=10")
    run = tmp_path / "run"
    done = call("train.py", *SHORT, *words, f"hydra.run.dir={run}")
    assert done.status == 0, done.err
    assert summary(run)["best/epoch"] == 6
    best, last = (load(run / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    assert best["state_dict"]["model.diffusing"]
    # The average starts again with the diffusion, so that it has the VAE whose latents the diffusion learns.
    vae = [name for name in best["state_dict"] if name.startswith(("model.posterior", "model.likelihood"))]
    assert vae and all(torch.equal(best["state_dict"][n], last["current_model_state"][n]) for n in vae)
