"""The classical models on the command line: trained, stopped, resumed and reported."""

import csv
import json

import pytest
import torch
from commands import call, refusal
from hydra.utils import instantiate
from parts import composed

from latentlab import evaluation
from latentlab.classical.normal_gamma import CAVINormalGamma
from latentlab.classical.sources import NormalDraws
from latentlab.errors import UserError

FIGURES = {
    "ppca": {"likelihood", "loadings", "latents", "samples", "sample_means", "reconstructions"},
    "cavi_earthquakes": {"map", "rates", "elbo"},
    "cavi_normal_gamma": {"posterior"},
    "bbvi_normal_gamma": {"path", "variance", "posterior"},
    "advi_normal_gamma": {"path"},
    "advi_earthquakes": set(),
    "gamma_mle": {"paths"},
    "mean_field_gaussian": {"ellipses"},
}


def train(directory, *overrides):
    """Run train.py and return its summary."""
    done = call("train.py", "logger=none", f"hydra.run.dir={directory}", *overrides)
    assert done.status == 0, done.err
    return json.loads((directory / "summary.json").read_text())


def state(directory):
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def logged(directory, name):
    rows = csv.DictReader((directory / "metrics.csv").read_text().splitlines())
    return [float(row[name]) for row in rows if row[name]]


@pytest.fixture(scope="module")
def converged(tmp_path_factory):
    """A run that stopped at convergence."""
    directory = tmp_path_factory.mktemp("converged")
    train(directory, "model=cavi_normal_gamma", "callbacks=none")
    return directory


@pytest.mark.parametrize("model", FIGURES)
def test_a_run_leaves_its_files(model, tmp_path):
    summary = train(tmp_path, f"model={model}", "+trainer.max_steps=6")
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == FIGURES[model]
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()
    assert summary["model"] == model
    assert summary["train/elbo"] == pytest.approx(logged(tmp_path, "train/elbo")[-1])
    assert 1 <= summary["train/iterations"] <= 6
    assert summary["time/train_seconds"] > 0


def test_explicit_choices_win():
    ppca = composed("model=ppca", "data=continuous_mnist", "callbacks=none", "model.latent_dim=3")
    assert ppca.names.data == "continuous_mnist"
    assert "figures" not in ppca.callbacks
    assert ppca.model.latent_dim == 3
    bbvi = composed("model=bbvi_normal_gamma", "step_size=adam", "model.rao_blackwell=false")
    assert bbvi.model.step_size._target_ == "torch.optim.Adam"
    mine = composed("model=cavi_earthquakes", "data=earthquakes_csv", "data.source.path=a.csv")
    assert mine.data.source.path == "a.csv"
    slow = composed("model=cavi_normal_gamma", "trainer.log_every_n_steps=7")
    assert slow.trainer.log_every_n_steps == 7


def test_a_run_stops_at_convergence_like_the_plain_class(converged):
    plain = CAVINormalGamma()
    plain.begin([NormalDraws(100).x])
    while not plain.converged:
        plain.iterate()
    summary = json.loads((converged / "summary.json").read_text())
    assert summary["train/iterations"] == plain.iterations
    assert summary["train/elbo"] == float(plain.elbo())
    assert state(converged)["model.history._extra_state"]["elbo"].tolist() == plain.history.values["elbo"]


def test_every_sweep_of_coordinate_ascent_is_logged(converged):
    summary = json.loads((converged / "summary.json").read_text())
    assert len(logged(converged, "train/mean_mu")) >= summary["train/iterations"] - 1


def test_a_converged_run_does_not_continue_when_it_is_resumed(converged):
    before = {path: path.stat().st_mtime_ns for path in converged.rglob("*")}
    assert str(converged) in refusal(call("train.py", f"resume={converged}"))
    assert before == {path: path.stat().st_mtime_ns for path in converged.rglob("*")}


@pytest.mark.parametrize(
    ("model", "options"), [("bbvi_normal_gamma", ["step_size=adam"]), ("cavi_earthquakes", [])]
)
def test_a_resumed_run_equals_an_uninterrupted_one(model, options, tmp_path):
    arguments = [f"model={model}", *options, "callbacks=none", "data.steps_per_epoch=4"]
    arguments += ["model.tolerance=0.0", "trainer.log_every_n_steps=2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole, *arguments, "trainer.max_epochs=3")
    train(cut, *arguments, "trainer.max_epochs=1")
    summary = train(cut, *arguments, "trainer.max_epochs=3", f"ckpt_path={cut}/checkpoints/last.ckpt")
    assert summary["train/iterations"] == 12
    torch.testing.assert_close(state(cut), state(whole), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model=cavi_normal_gamma", "data=binarised_digits"), "needs observations of 1 column"),
        (("model=gamma_mle", "data=earthquakes_csv", "data.source.path=none.csv"), "no such file"),
        (("model=ppca", "data=binarised_digits"), "protocol=threshold"),
    ],
)
def test_data_of_another_kind_are_refused(overrides, words, tmp_path):
    assert words in refusal(call("train.py", "logger=none", f"hydra.run.dir={tmp_path}", *overrides))


def test_several_devices_are_refused():
    module = instantiate(composed("model=cavi_normal_gamma").module)

    class Trainer:
        world_size = 2

    module._trainer = Trainer()
    with pytest.raises(UserError, match="iterates on one device"):
        module.setup("fit")  # the hook before Lightning wraps the module for several devices


@pytest.mark.parametrize("model", FIGURES)
def test_the_state_stays_on_the_cpu(model):
    """Black-box inference draws on the CPU, and some devices have no float64."""
    config = composed(f"model={model}")
    module = instantiate(config.module).to("meta").to(torch.float32)
    assert {(buffer.device.type, buffer.dtype) for buffer in module.buffers()} == {("cpu", torch.float64)}
    assert module.device.type == "cpu"
    assert not list(module.parameters())
    if model != "ppca":
        data = instantiate(config.data)
        (batch,) = data.test_dataloader()
        assert data.transfer_batch_to_device(batch, torch.device("meta"), 0).x.device.type == "cpu"


@pytest.mark.parametrize(
    ("model", "number"),
    [("cavi_normal_gamma", 4), ("bbvi_normal_gamma", 4), ("gamma_mle", 2), ("cavi_earthquakes", 20)],
)
def test_the_inferred_parameters_are_counted(model, number):
    assert instantiate(composed(f"model={model}").module).model.num_parameters == number


def test_the_likelihood_of_a_missing_test_set_is_refused():
    model = instantiate(composed("model=cavi_normal_gamma").module).model
    assert evaluation.choose_nll_samples(model, None) == evaluation.choose_nll_samples(model, 0) == 0
    with pytest.raises(UserError, match=r"nll\.samples=10: CAVINormalGamma"):
        evaluation.choose_nll_samples(model, 10)
