"""Every option of every group and every experiment, composed as by the command line and checked against the code."""

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
from commands import call
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parts import CONF, GROUPS, NEEDS, ROWS, WIDE, composed, composition, options, part

from latentlab import objectives
from latentlab.callbacks import GradientVariance
from latentlab.cli.checks import check_config
from latentlab.data import ImageData
from latentlab.errors import UserError
from latentlab.results.rows import read_rows

OBJECTIVES = {
    "elbo": objectives.ELBO(1),
    "analytic_elbo": objectives.AnalyticELBO(1),
    "stl": objectives.STL(1),
    "iwae": objectives.IWAE(50),
    "dreg": objectives.DReG(50),
    "score_function": objectives.ScoreFunction(8),
    "vimco": objectives.VIMCO(8),
    "miwae": objectives.MIWAE(8, groups=8),
    "piwae": objectives.PIWAE(8, groups=8),
    "ciwae": objectives.CIWAE(50, beta=0.5),
    "tvo": objectives.TVO(10, partitions=2, first=0.025),
    "rws": objectives.RWS(10),
    "beta_elbo": objectives.BetaELBO(1),
    "warmup_elbo": objectives.BetaELBO(1, warmup_epochs=10),
    "vlb": objectives.VLB(1),
    "latent_diffusion": objectives.LatentDiffusion(1, beta=1, autoencoder_epochs=10),
    "reconstruction": objectives.Reconstruction(1),
    "log_prior": objectives.LogPrior(1),
    "semi_supervised": objectives.SemiSupervised(1, alpha=50),
}
POINTS = ("normal", "two_gaussians", "chequerboard", "moons")
PROTOCOLS = {
    **dict.fromkeys(POINTS, "real"),
    "images": "threshold",
    "four_bit_mnist": "four_bit",
    "omniglot": "dynamic",
    "caltech101_silhouettes": "static",
    "frey_faces": "discrete",
    "binarised_mnist": "threshold",
    "dynamic_mnist": "dynamic",
    "static_mnist": "static",
    "continuous_mnist": "continuous",
    "binarised_digits": "threshold",
    "continuous_digits": "continuous",
}
# What a model needs besides.
BESIDES = {
    "flow": ("data=continuous_mnist", "protocol=dequantised"),
    **dict.fromkeys(("expost", "expost_autoencoder"), ("model.pretrained=best.ckpt", "prior=mog")),
}
# Former names of experiments.
FORMER = {
    "hierarchical_vae_iwae_2layer": "iwae_2layer",
    "vampprior_vae": "vampprior_static",
    "vampprior_baseline": "vampprior_static_baseline",
}
# Overrides that shrink experiments with large networks.
SMALLER = {
    "geometry": ["data.train_size=20"],
    "conv_ladder_static": ["model.rungs.width=8", "model.rungs.blocks=1"],
    "latent_ddpm": ["objective.autoencoder_epochs=0.5"],
    "stop_gradient": ["callbacks.gradient_variance.repeats=5"],
    "diffenc_vdm": ["denoiser.groups=8", "denoiser.embedding=16"],
    "latent_vdm_long": ["encoder.channels=[8,8]", "decoder.channels=[8,8]", "denoiser.width=64"],
}


@pytest.mark.parametrize("row", ROWS, ids=[f"row {index}" for index in range(len(ROWS))])
def test_every_option_of_a_narrow_group_composes_and_fits_the_code(row):
    composed(*row)


@pytest.mark.parametrize(
    "override",
    [
        f"{group}={option}"
        for group in WIDE
        if group not in ("model", "experiment")
        for option in options(group)
    ],
)
def test_every_option_of_a_wide_group_composes_and_fits_the_code(override):
    composed(override, *NEEDS.get(override, ()))


def test_every_option_starts_with_a_comment():
    for group in GROUPS:
        for option in options(group):
            lines = (CONF / group / f"{option}.yaml").read_text().splitlines()
            comment = next(line for line in lines if not line.startswith("# @package"))
            assert comment.startswith("# "), (group, option)


@pytest.mark.parametrize("model", options("model"))
def test_every_model_is_built_with_its_data_callbacks_and_figures(model):
    config = composed(f"model={model}", *BESIDES.get(model, ()))
    data, module = instantiate(config.data), instantiate(config.module)
    module.check(data)
    callbacks = [instantiate(entry) for entry in config.callbacks.values() if entry]
    assert callbacks and all(isinstance(callback, pl.Callback) for callback in callbacks)
    assert config.names.model == model


@pytest.mark.parametrize("option", options("callbacks"))
def test_every_entry_of_callbacks_is_a_callback(option):
    callbacks = [instantiate(entry) for entry in part("callbacks", option).values() if entry]
    assert all(isinstance(callback, pl.Callback) for callback in callbacks)


@pytest.mark.parametrize("option", options("trainer"))
def test_every_trainer_leaves_sharding_to_the_loaders(option):
    trainer = part("trainer", option)
    assert trainer.use_distributed_sampler is False
    assert trainer.num_sanity_val_steps == 0


def test_every_objective_has_its_defaults():
    assert set(OBJECTIVES) == set(options("objective"))
    for option, expected in OBJECTIVES.items():
        assert instantiate(part("objective", option)) == expected


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("vimco", "samples", 1),
        ("score_function", "samples", 1),
        ("iwae", "samples", 0),
        ("rws", "samples", 1),
        ("tvo", "first", 0),
        ("miwae", "groups", 0),
        ("ciwae", "beta", -1),
        ("beta_elbo", "beta", -1),
        ("beta_elbo", "cycle_epochs", 0),
    ],
)
def test_values_out_of_range_are_refused(option, key, value):
    config = OmegaConf.to_container(part("objective", option)) | {key: value}
    with pytest.raises(UserError, match=f"objective.{key}={value}: input should be greater"):
        check_config(config, config, "objective")


def test_an_objective_can_be_added_to_the_gradient_variance():
    config = composed(
        "callbacks=gradient_variance",
        "+callbacks.gradient_variance.compare.iwae={_target_:latentlab.objectives.IWAE,samples:5}",
    )
    callback = instantiate(config.callbacks.gradient_variance)
    assert isinstance(callback, GradientVariance)
    others = [objectives.ELBO(1), objectives.AnalyticELBO(1), objectives.STL(1), objectives.IWAE(5)]
    assert list(callback.compare.values()) == others


def test_every_image_data_set_brings_its_protocol():
    images = [name for name in options("data") if "protocol:" in (CONF / "data" / f"{name}.yaml").read_text()]
    assert set(images) == set(PROTOCOLS)
    for name, protocol in PROTOCOLS.items():
        places = ("data.path=x",) if name == "images" else ()
        data = instantiate(composed(f"data={name}", *places).data)
        assert isinstance(data, ImageData)
        assert (data.protocol.name, data.seed, data.draw_seed) == (protocol, 0, 0)


@pytest.mark.parametrize("protocol", ["threshold", "dequantised"])
def test_an_explicit_protocol_wins(protocol):
    config = composed("data=continuous_mnist", f"protocol={protocol}", "seed=5")
    data = instantiate(config.data)
    assert (data.protocol.name, data.seed) == (protocol, 5)


def test_torchvision_sets_come_from_the_command_line(monkeypatch):
    monkeypatch.setenv("LATENTLAB_DATA", "/somewhere")
    config = composed(
        "data.dataset=EMNIST", "+data.options.split=letters", "data.val_size=0", "data.batch_size=7"
    )
    data = instantiate(config.data)
    assert (data.name, data.options, data.val_size, data.batch_size) == ("EMNIST", {"split": "letters"}, 0, 7)
    assert data.folder == Path("/somewhere/EMNIST/raw")


def test_the_default_root_is_a_folder_of_the_project(monkeypatch):
    monkeypatch.delenv("LATENTLAB_DATA", raising=False)
    data = instantiate(composed("data=static_mnist", "data.val_size=1").data)
    assert data.folder == Path("data/BinarizedMNIST/raw")


@pytest.mark.parametrize(
    ("alias", "group", "option"),
    [
        ("mog_vae", "prior", "standard_normal"),
        ("stl_vae", "objective", "elbo"),
        ("cnn_vae", "encoder", "mlp"),
        ("linear_vae", "likelihood", "gaussian_fixed"),
        ("conditional_vae", "prior", "mog"),
    ],
)
def test_an_explicit_option_wins_over_an_alias(alias, group, option):
    chosen = composed(f"model={alias}", f"{group}={option}")
    assert chosen.names.model == alias
    assert chosen[group] == part(group, option) != composed(f"model={alias}")[group]
    assert OmegaConf.select(chosen, f"module.model.{group}", default=chosen[group]) == chosen[group]


@pytest.mark.parametrize("former", FORMER)
def test_a_former_name_of_an_experiment_works(former):
    assert composed(f"experiment={former}") == composed(f"experiment={FORMER[former]}")


@pytest.mark.parametrize("row", [row for row in read_rows() if row.published], ids=lambda row: row.name)
def test_an_experiment_states_the_published_figure_of_its_rows(row):
    experiment, *_ = re.findall(r"(?<=^experiment=)\w+", row.command) or [
        "linear_vae"
    ]  # which states those of ppca
    comments = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    assert re.search(rf"\b{abs(row.published):.2f}\b|\b{row.published:g}\b", comments)


def brief(experiment: str) -> list[str]:
    """Settings under which an experiment trains for a step on digits, or for an epoch on other data."""
    config, chosen = composition(f"experiment={experiment}")
    assert config.trainer.max_epochs != 0
    settings = ["trainer.max_epochs=1", "trainer.log_every_n_steps=1", "logger=none", "trainer=cpu"]
    if "mnist" in chosen["data"] or "digits" in chosen["data"]:
        settings += ["data.val_size=20", "data.batch_size=20", "+trainer.limit_train_batches=1"]
    settings += SMALLER.get(experiment, [])
    if not chosen["model"].endswith(("ppca", "earthquakes", "gamma", "mle", "gaussian")):
        settings.append("figures=none")
    if chosen["data"].endswith("mnist"):
        kind = "continuous" if chosen["data"].startswith("continuous") else "binarised"
        protocol = "threshold" if chosen["protocol"] == "static" else chosen["protocol"]
        settings += [f"data={kind}_digits", f"protocol={protocol}"]
    if chosen["data"] in POINTS:
        return [*settings, "data.number=400", "data.test_number=20", "data.val_size=200"]
    if chosen["model"] == "flow":
        return [*settings, "model.flow.hidden_features=[8]"]
    if (
        chosen["objective"] == "vlb" and chosen["model"] != "gmvae"
    ):  # large networks: one step, and no validation
        settings += ["model.eval_steps=[]", "data.val_size=0"]
        settings += (
            ["denoiser.channels=[8,8]", "denoiser.blocks=1"] if chosen["model"] in ("vdm", "ddpm") else []
        )
    return settings


# expost needs a trained run, see tests/models/test_expost.py
@pytest.mark.parametrize("experiment", sorted(set(options("experiment")) - {"expost", *FORMER}))
def test_every_experiment_trains(tmp_path: Path, experiment: str):
    settings = [f"experiment={experiment}", *brief(experiment), f"hydra.run.dir={tmp_path}/run"]
    done = call("train.py", *settings)
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "summary.json").exists()
