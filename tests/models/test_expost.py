"""Priors fitted to the latents of trained runs."""

import json
from pathlib import Path

import pytest
import torch
from commands import call, refusal
from omegaconf import OmegaConf
from parts import composed
from runs import summary, train, weights
from torch.distributions import Independent, Normal

from latentlab.cli.expost import take
from latentlab.errors import UserError
from latentlab.priors import MixtureOfGaussiansPrior
from latentlab.run.config import read_config

EXPOST = ("logger=none", "callbacks=none", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("vae") / "run", "model.latent_dim=3", "data=binarised_digits")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("autoencoder") / "run", "model=autoencoder", "model.latent_dim=3")


def fitted(run: Path, base: Path, *words: str, said: str = "") -> Path:
    done = call("train.py", "experiment=expost", f"run={base}", *EXPOST, *words, f"hydra.run.dir={run}")
    assert done.status == 0 and said in done.out, done.err
    return run


@pytest.mark.parametrize(
    "words",
    [
        ["prior=mog"],
        ["prior=flow"],
        ["prior=vamp", "prior.num_components=5"],
        ["model=latent_vdm", "model.sample_steps=2"],
    ],
)
def test_only_the_prior_of_a_vae_is_learned(vae: Path, tmp_path: Path, words: list[str]) -> None:
    run = fitted(tmp_path / "run", vae, *words, said=f"test/elbo: {summary(vae)['test/elbo']:.2f} +- ")
    before, after = weights(vae), weights(run)
    kept = [name for name in before if name.startswith(("model.posterior", "model.likelihood"))]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    old, new = summary(vae), summary(run)
    assert new["test/reconstruction"] == pytest.approx(old["test/reconstruction"], rel=1e-6)
    assert new["data"] == old["data"]


def test_the_order_of_the_data_and_the_ensemble_of_decoders_are_kept(tmp_path: Path) -> None:
    base = train(tmp_path / "base", "model.latent_dim=2", "model.decoders=2")
    run = fitted(tmp_path / "run", base, "prior=mog", "seed=3", "data.batch_size=16")
    before, after = (read_config(each / "config.yaml") for each in (base, run))
    assert after["data"] == before["data"] | {"seed": 3, "batch_size": 16}
    assert after["model"]["decoders"] == 2


def test_the_run_needs_its_base_no_more_and_is_evaluated_without_it(vae: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.symlink_to(vae)
    run = fitted(tmp_path / "run", base, "prior=mog")
    base.unlink()
    done = call("evaluate.py", f"run={run}", "nll.samples=5", "figures.draw=false")
    assert done.status == 0, done.err
    found = json.loads((run / "evaluation.json").read_text())
    assert found["test/elbo"] == pytest.approx(summary(run)["test/elbo"])


@pytest.mark.parametrize("prior", ["mog", "flow"])
def test_an_autoencoder_with_a_prior_draws_images(autoencoder: Path, tmp_path: Path, prior: str) -> None:
    run = fitted(tmp_path / "run", autoencoder, f"prior={prior}")
    assert "test/log_prior" in summary(run) and "test/elbo" not in summary(run)
    words = ("figures.draw=false", "figures.more=[neighbours]", "export=samples", "export_n=3")
    done = call("evaluate.py", f"run={run}", *words)
    assert done.status == 0, done.err
    assert (run / "export" / "samples.npz").is_file() and (run / "figures" / "neighbours.png").is_file()


def test_a_mixture_starts_from_the_maximum_likelihood() -> None:
    torch.manual_seed(0)
    truth = Independent(
        Normal(torch.tensor([[-3.0, 0.0], [3.0, 1.0]]), torch.tensor([[0.5, 1.0], [1.0, 0.2]])), 1
    )
    means = truth.sample((4000,)).flatten(0, 1)
    prior = MixtureOfGaussiansPrior((2,), num_components=2)
    prior.fit(means, torch.tensor([0.3, 0.4]))
    order = prior.means[:, 0].argsort()
    assert torch.allclose(prior.means[order], truth.mean, atol=0.1)
    expected = (truth.base_dist.variance + torch.tensor([0.3, 0.4])).sqrt()
    assert torch.allclose(prior.log_scales.exp()[order], expected, rtol=0.05)
    assert torch.allclose(prior.logits.softmax(0), torch.tensor([0.5, 0.5]), atol=0.03)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["prior=mog"], "run=RUN"),
        (["run=[a,b]", "prior=mog"], "run="),
        (["run=[]", "prior=mog"], "run="),
        (["run=", "prior=mog"], "run="),
        (["run=nowhere", "prior=mog"], "run=nowhere"),
        (["run=VAE"], "prior=mog"),
        (["run=AUTOENCODER", "prior=vamp"], "VampPrior"),
        (["run=AUTOENCODER", "model=latent_vdm"], "prior=mog"),
        (["run=VAE", "model=vae"], "resume"),
        (["run=VAE", "prior=mog", "encoder=cnn"], "encoder=cnn"),
        (["run=VAE", "prior=mog", "encoder.hidden=[3]"], "encoder.hidden"),
        (["run=VAE", "prior=mog", "model.latent_dim=5"], "model.latent_dim"),
        (["run=VAE", "prior=mog", "model.pretrained=best.ckpt"], "model.pretrained"),
        (["run=VAE", "model=latent_vdm", "model.freeze=false"], "model.freeze"),
        (["run=VAE", "prior=mog", "data=binarised_mnist"], "data: "),
        (["run=VAE", "prior=mog", "data.val_size=7"], "data.val_size"),
        (["run=VAE", "prior=mog", "data.root=elsewhere"], "data.root"),  # the digits have none
    ],
)
def test_what_cannot_be_fitted_is_one_line(
    vae: Path, autoencoder: Path, tmp_path: Path, words: list[str], named: str
) -> None:
    places = {"run=VAE": f"run={vae}", "run=AUTOENCODER": f"run={autoencoder}"}
    run = tmp_path / "run"
    done = call(
        "train.py", "experiment=expost", *(places.get(w, w) for w in words), *EXPOST, f"hydra.run.dir={run}"
    )
    assert named in refusal(done)
    assert not run.exists()


@pytest.mark.parametrize(
    "name", ["hierarchical_vae", "conditional_vae", "gmvae", "semi_supervised_vae", "vdm"]
)
def test_a_run_of_another_model_is_named(name: str) -> None:
    own = OmegaConf.to_container(composed("model=expost", "prior=mog", "model.pretrained=best.ckpt"))
    saved = OmegaConf.to_container(composed(f"model={name}"))
    with pytest.raises(UserError, match=f"run=best.ckpt: model={name} has "):
        take(own, saved, Path("best.ckpt"), [])


def test_a_hostile_run_is_refused(vae: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "checkpoints").symlink_to(vae / "checkpoints")
    config = (vae / "config.yaml").read_text().replace("latentlab.nn.mlp.MLP", "os.system")
    (base / "config.yaml").write_text(config)
    done = call(
        "train.py", "experiment=expost", f"run={base}", "prior=mog", *EXPOST, f"hydra.run.dir={tmp_path}/run"
    )
    assert "os.system" in refusal(done)
