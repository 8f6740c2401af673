"""The classical models through Hydra and Lightning: composed, run, stopped, resumed, reported."""

import csv
import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict

from latentlab import evaluation
from latentlab.classical.normal_gamma import CAVINormalGamma
from latentlab.cli import report as reports
from latentlab.cli import training as runs
from latentlab.cli.checks import check_config
from latentlab.errors import UserError

CONF = str(Path(__file__).parents[2] / "conf")
MODELS = [
    "ppca",
    "cavi_earthquakes",
    "cavi_normal_gamma",
    "bbvi_normal_gamma",
    "gamma_mle",
    "mean_field_gaussian",
]
FIGURES = {
    "ppca": {"likelihood", "loadings", "latents", "samples", "sample_means", "reconstructions"},
    "cavi_earthquakes": {"map", "rates", "elbo"},
    "cavi_normal_gamma": {"posterior"},
    "bbvi_normal_gamma": {"path", "variance", "posterior"},
    "gamma_mle": {"paths"},
    "mean_field_gaussian": {"ellipses"},
}


def composed(*overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("train", ["logger=none", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    config = OmegaConf.to_container(cfg, resolve=True)
    check_config(OmegaConf.to_container(cfg), config)
    return cfg, config


def run(directory, *overrides, ckpt_path=None):
    """What train.py does, in this process."""
    cfg, config = composed(*overrides)
    directory.mkdir(exist_ok=True)
    runs.begin(directory, config, cfg.seed, ckpt_path, True)
    data, module = instantiate(cfg.data), instantiate(cfg.module)
    module.model.check(data.protocol)
    callbacks = [instantiate(node) for node in cfg.callbacks.values() if node]
    runs.check_callbacks(callbacks, validates=data.val_size > 0)
    with runs.tracked(directory, None, config) as loggers:
        trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, default_root_dir=directory)
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        best = directory / "checkpoints" / "best.ckpt"
        trainer.test(module, data, ckpt_path=best, weights_only=True, verbose=False)
        return module, reports.conclude(trainer, directory, {**config["names"], "seed": cfg.seed})


@pytest.mark.parametrize("model", MODELS)
def test_a_run_leaves_what_every_run_leaves(model, tmp_path):
    module, summary = run(tmp_path, f"model={model}", "+trainer.max_steps=6")
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == FIGURES[model]
    for name in ("best", "last"):
        assert (tmp_path / "checkpoints" / f"{name}.ckpt").exists()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["model"] == model
    assert summary["train/elbo"] == pytest.approx(float(module.model.elbo()))
    assert 1 <= summary["train/iterations"] <= 6
    assert summary["time/train_seconds"] > 0
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert any(row["train/elbo"] for row in rows)
    assert not list(module.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_every_experiment_composes(model):
    cfg, _ = composed(f"experiment={model}")
    assert cfg.names.model == model


def test_explicit_choices_win():
    cfg, _ = composed("model=ppca", "data=continuous_mnist", "callbacks=classical", "model.latent_dim=3")
    assert cfg.names.data == "continuous_mnist"
    assert "latents" not in cfg.callbacks
    assert cfg.model.latent_dim == 3
    cfg, _ = composed("model=bbvi_normal_gamma", "step_size=adam", "model.rao_blackwell=false")
    assert cfg.model.step_size._target_.endswith("Adam")
    cfg, _ = composed("model=cavi_earthquakes", "data=earthquakes_csv", "data.source.path=a.csv")
    assert cfg.data.source.path == "a.csv"


def test_a_run_stops_at_convergence_where_the_plain_class_does(tmp_path):
    module, summary = run(tmp_path, "model=cavi_normal_gamma")
    plain = CAVINormalGamma()
    plain.begin([instantiate(composed("model=cavi_normal_gamma")[0].data).source.x])
    while not plain.converged:
        plain.iterate()
    assert summary["train/iterations"] == plain.iterations
    assert summary["train/elbo"] == float(plain.elbo())
    assert module.model.history.values == plain.history.values


@pytest.mark.parametrize("model", ["bbvi_normal_gamma", "cavi_earthquakes"])
def test_a_resumed_run_is_the_run_that_was_never_cut_off(model, tmp_path):
    arguments = (
        f"model={model}",
        "data.steps_per_epoch=4",
        "model.tolerance=0.0",
        "trainer.log_every_n_steps=2",
    )
    whole, _ = run(tmp_path / "whole", *arguments, "trainer.max_epochs=3")
    run(tmp_path / "cut", *arguments, "trainer.max_epochs=1")
    last = str(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    resumed, summary = run(tmp_path / "cut", *arguments, "trainer.max_epochs=3", ckpt_path=last)
    assert summary["train/iterations"] == 12
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_data_of_another_kind_are_refused():
    for overrides, words in (
        (["model=cavi_normal_gamma", "data=binarised_digits"], "needs observations of 1 column"),
        (["model=gamma_mle", "data=earthquakes_csv"], "no such file"),
        (["model=ppca", "data=binarised_digits"], "protocol=threshold"),
    ):
        with pytest.raises(Exception, match=words):
            cfg, _ = composed(*overrides, *(["data.source.path=none.csv"] if "csv" in overrides[1] else []))
            instantiate(cfg.module).model.check(instantiate(cfg.data).protocol)


def test_several_devices_are_refused(tmp_path):
    cfg, _ = composed("model=cavi_normal_gamma")
    module, data = instantiate(cfg.module), instantiate(cfg.data)

    class Trainer:
        world_size, datamodule = 2, data

    module._trainer = Trainer()
    with pytest.raises(UserError, match="iterates on one device"):
        module.setup("fit")  # the hook before Lightning asks for gradients to exchange


def test_whatever_the_trainer_s_device_all_stays_on_the_cpu():
    """On a GPU: the draws of black-box inference and the observations are on the CPU, and so must be the state."""
    for model in MODELS:
        cfg, _ = composed(f"model={model}")
        module = instantiate(cfg.module).to("meta").to(torch.float32)
        assert {(buffer.device.type, buffer.dtype) for buffer in module.buffers()} == {("cpu", torch.float64)}
        assert module.device.type == "cpu"
        if model != "ppca":
            data = instantiate(cfg.data)
            (batch,) = data.test_dataloader()
            assert data.transfer_batch_to_device(batch, torch.device("meta"), 0).x.device.type == "cpu"


def test_a_run_that_has_converged_does_not_go_on_when_it_is_resumed(tmp_path):
    _, before = run(tmp_path, "model=cavi_normal_gamma")
    last = str(tmp_path / "checkpoints" / "last.ckpt")
    _, after = run(tmp_path, "model=cavi_normal_gamma", ckpt_path=last)
    assert after["train/iterations"] == before["train/iterations"]
    assert after["train/elbo"] == before["train/elbo"]


def test_every_sweep_of_coordinate_ascent_is_logged(tmp_path):
    _, summary = run(tmp_path, "model=cavi_normal_gamma")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert len([row for row in rows if row["train/mean_mu"]]) >= summary["train/iterations"] - 1
    assert (
        composed("model=cavi_normal_gamma", "trainer.log_every_n_steps=7")[0].trainer.log_every_n_steps == 7
    )


@pytest.mark.parametrize(
    ("model", "number"),
    [("cavi_normal_gamma", 4), ("bbvi_normal_gamma", 4), ("gamma_mle", 2), ("cavi_earthquakes", 20)],
)
def test_parameters_are_those_that_are_inferred(model, number):
    assert instantiate(composed(f"model={model}")[0].module).model.num_parameters == number


def test_a_likelihood_of_a_test_set_that_there_is_not_is_refused():
    model = instantiate(composed("model=cavi_normal_gamma")[0].module).model
    assert evaluation.choose_nll_samples(model, None) == evaluation.choose_nll_samples(model, 0) == 0
    with pytest.raises(UserError, match=r"nll\.samples=10: CAVINormalGamma"):
        evaluation.choose_nll_samples(model, 10)
