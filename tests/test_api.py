"""latentlab from Python gives the numbers and files of the commands, and leaves the process as it was."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from commands import QUICK, call, refusal
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from PIL import Image
from runs import summary
from torch.distributions import Distribution

import latentlab
from latentlab.cli.export import write_images
from latentlab.cli.training import flushes_denormals
from latentlab.errors import UserError

FAST = (*QUICK, "data.batch_size=629", "trainer.log_every_n_steps=1")


class Interrupt(pl.Callback):
    """Presses Ctrl-C in the second epoch."""

    def on_train_batch_end(self, trainer, *others):
        if trainer.current_epoch == 1:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def run(small):
    return latentlab.load(small)


def test_the_package_is_imported_without_torch():
    line = "import sys, latentlab; assert 'torch' not in sys.modules; assert 'load' in dir(latentlab)"
    assert subprocess.run([sys.executable, "-c", line]).returncode == 0


def test_scores_of_examples_have_the_means_that_the_run_reports(run, small):
    assert run.elbos().mean(dtype=float) == pytest.approx(run.summary["test/elbo"], rel=1e-12)
    assert run.elbos("val").mean(dtype=float) == pytest.approx(run.summary["val/elbo"], rel=1e-12)
    results = latentlab.evaluate(small, ["nll.samples=3", "figures.draw=false"])
    assert -run.log_likelihoods(samples=3).mean() == pytest.approx(results["test/nll"], rel=1e-12)
    assert results == json.loads((small / "evaluation.json").read_text())
    terms = run.terms()
    np.testing.assert_allclose(terms["elbo"], terms["reconstruction"] - terms["kl"], rtol=1e-5)


def test_the_model_is_ready_to_use(run, small):
    assert not run.model.training and not any(p.requires_grad for p in run.model.parameters())
    assert run.path == small and run.config["names"]["model"] == "vae"
    assert run.metrics["val/elbo"][-1] == run.summary["val/elbo"] and math.isnan(run.metrics["test/elbo"][0])
    assert list(run.curve()) == [1] and len(set(map(len, run.metrics.values()))) == 1


def test_draws_are_the_same_at_every_call(run):
    x = run.images()
    assert x.shape == (270, 1, 28, 28) and set(run.labels("train")) == set(range(10))
    np.testing.assert_array_equal(run.latents(), run.latents(x))
    np.testing.assert_allclose(
        run.latents(x[:60]), run.latents(torch.as_tensor(x))[:60], rtol=1e-4, atol=1e-6
    )
    assert run.latents("val", mean=True).shape == (270, 32)
    assert run.reconstructions(x[:3]).shape == (3, 1, 28, 28)
    np.testing.assert_array_equal(run.samples(3, seed=1), run.samples(3, seed=1))
    assert (run.samples(600)[:100] != run.samples(600)[500:]).any()
    # The draws of p(x|z) have the probabilities of the means, in the mean over many pixels.
    means = run.samples(500, mean=True)
    assert (
        abs(run.samples(500).mean() - means.mean())
        < 5 * (means * (1 - means)).mean() ** 0.5 / means.size**0.5
    )


@pytest.mark.parametrize(
    "use, said",
    [
        (lambda run: run.latents("tset"), "'tset'"),
        (lambda run: run.latents(np.zeros((2, 28, 28), np.float32)), "[2, 28, 28]"),
        (lambda run: run.latents(np.zeros((2, 1, 28, 28), np.uint8)), "uint8"),
        (lambda run: run.figure("latent"), "did you mean latents?"),
        (lambda run: latentlab.load(run.path, device="cuda:9"), "device=cuda:9"),
        (lambda run: latentlab.load(run.path, device="tpu"), "(an unknown kind)"),
        (lambda run: latentlab.load(run.path / "nothing"), "no such run"),
        (lambda run: run.samples(2, seed=-1), "seed=-1"),
        (lambda run: run.log_likelihoods(samples=2, chunk=0), "chunk=0"),
        (lambda run: latentlab.compose("model=vae"), "list"),
        (lambda run: latentlab.train("model=vae"), "list"),
        (lambda run: latentlab.evaluate(run.path, "samples=2"), "list"),
        (lambda run: latentlab.compose([3]), "3 is not a setting"),
        (lambda run: latentlab.train(["-m", "seed=1,2"]), "command line"),
        (lambda run: latentlab.train(["--cfg=job"]), "--cfg=job"),
        (lambda run: latentlab.train([*QUICK, "trainer=ddp_cpu"]), "trainer.devices=2"),
        (lambda run: latentlab.train([*QUICK, "hydra.job.chdir=true"]), "hydra.job.chdir"),
        (lambda run: latentlab.evaluate(run.path, ["nll.smaples=3"]), "did you mean nll.samples?"),
    ],
)
def test_mistakes_are_one_line(run, use, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        use(run)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"error: {caught.value}"]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "words",
    [
        ("model=vaee",),
        ("trainer.max_epoch=3",),
        ("encoder.hidden=abc",),
        ("model=vdm", "objective=iwae"),
        ("model=3",),
    ],
)
def test_compose_refuses_what_the_command_refuses(words, tmp_path):
    with pytest.raises(UserError) as caught:
        latentlab.compose(words)
    refused = refusal(call("train.py", *words, f"hydra.run.dir={tmp_path / 'run'}"))
    assert refused == f"error: {caught.value}"


def test_scores_are_the_same_with_flushed_denormal_numbers(small):
    words, found = ["nll.samples=3", "figures.draw=false"], []
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        found.append(latentlab.evaluate(small, words))
    torch.set_flush_denormal(False)
    assert found[0] == found[1]


def test_compose_returns_the_values_of_a_run():
    config = latentlab.compose([*QUICK, "model.latent_dim=3"])
    assert config.model.latent_dim == config.module.model.latent_dim == 3


def of_process() -> tuple:
    """What a call must leave as it was."""
    root = logging.getLogger()
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    state = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    hydra = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    names = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return (
        root.handlers[:],
        root.level,
        signals,
        state,
        hydra,
        names,
        os.getcwd(),
        Distribution._validate_args,
        flushes_denormals(),
    )


def test_train_gives_the_numbers_and_files_of_the_command(tmp_path, small, capsys):
    before = of_process()
    trained = latentlab.train(QUICK, tmp_path / "run")
    assert of_process() == before
    assert trained.summary["test/elbo"] == summary(small)["test/elbo"]
    files_of = [{path.name for path in run.iterdir()} - {"evaluation.json"} for run in (small, trained.path)]
    assert files_of[0] == files_of[1]
    assert "epoch 1/1" in capsys.readouterr().out and "epoch 1/1" in (trained.path / "train.log").read_text()
    files = {path: path.read_bytes() for path in trained.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"already holds a run.*latentlab\.load"):
        latentlab.train(QUICK, tmp_path / "run")
    assert files == {path: path.read_bytes() for path in trained.path.rglob("*") if path.is_file()}
    # Another experiment in the same process, in a thread, which does not run next to others.
    found = []
    thread = threading.Thread(
        target=lambda: found.append(
            latentlab.train([*FAST, "seed=1", "validate_args=true"], tmp_path / "other")
        )
    )
    thread.start()
    while not (tmp_path / "other").exists():
        pass
    with pytest.raises(UserError, match="another thread"):
        latentlab.compose()
    thread.join()
    assert found[0].summary["seed"] == 1 and found[0].summary["test/elbo"] != trained.summary["test/elbo"]
    assert of_process()[:3] == before[:3]


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path, capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands in this process replace it
    before = of_process()
    words = [*FAST, "trainer.max_epochs=3", "+callbacks.stop._target_=test_api.Interrupt"]
    with pytest.raises(KeyboardInterrupt):
        latentlab.train(words, tmp_path / "run")
    assert of_process() == before
    assert f"latentlab.train(['resume={tmp_path / 'run'}'])" in capsys.readouterr().err


def test_a_run_with_a_class_of_the_caller_is_trained_and_loaded(tmp_path, monkeypatch):
    words = [*FAST, "likelihood._target_=own_likelihood.Own", f"hydra.run.dir={tmp_path / 'run'}"]
    module = tmp_path / "own_likelihood.py"
    module.write_text(
        "from latentlab.likelihoods import BernoulliLikelihood\nclass Own(BernoulliLikelihood): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert type(latentlab.train(words).model.likelihood).__name__ == "Own"
    with pytest.raises(UserError, match="trust"):
        latentlab.load(tmp_path / "run")
    assert type(latentlab.load(tmp_path / "run", trust="own_likelihood").model.likelihood).__name__ == "Own"


def test_a_model_without_latents_or_bound_says_so(tmp_path):
    classical = latentlab.train(
        ["model=gamma_mle", "logger=none", "figures=none", "trainer.max_epochs=1"], tmp_path / "a"
    )
    for use in (classical.latents, classical.samples, classical.elbos, classical.log_likelihoods):
        with pytest.raises(UserError, match="GammaMLE"):
            use()
    autoencoder = latentlab.train([*FAST, "model=autoencoder"], tmp_path / "b")
    assert autoencoder.latents().shape == (270, 32) and "reconstruction" in autoencoder.terms()
    for use in (autoencoder.elbos, autoencoder.log_likelihoods):
        with pytest.raises(UserError, match="no bound"):
            use()
    assert "p(x)" in refusal(call("evaluate.py", f"run={autoencoder.path}", "export=images"))


def test_a_conditional_model_takes_labels(tmp_path):
    trained = latentlab.train([*FAST, "model=conditional_vae"], tmp_path / "run")
    x, y = trained.images(), trained.labels()
    np.testing.assert_array_equal(trained.latents((x, y)), trained.latents())
    with pytest.raises(UserError, match="labels"):
        trained.latents(x)
    assert isinstance(trained.figure("classes"), Figure)


def test_a_notebook_shows_figures(run):
    drawn = (
        run.figure("latents", max_points=50),
        latentlab.figures.samples(run.model, run.data.whole_test_set()),
    )
    for figure in drawn:
        assert isinstance(figure, Figure)
        picture = Image.open(BytesIO(figure._repr_png_()))
        assert (
            picture.format == "PNG"
            and abs(picture.width / picture.height - np.divide(*figure.get_size_inches())) < 0.02
        )
    with pytest.raises(UserError, match="model=conditional_vae"):
        run.figure("classes")


def test_an_export_holds_the_arrays_of_a_loaded_run(run, tmp_path):
    names = ["samples", "latents", "reconstructions", "elbos", "log_likelihoods"]
    words = ("nll.samples=2", "figures.draw=false", "export_n=3", f"output_dir={tmp_path}")
    done = call("evaluate.py", f"run={run.path}", *words, f"export=[{','.join(names)},images]")
    assert done.status == 0 and f"export: {tmp_path / 'export'}" in done.out
    files = {name: np.load(tmp_path / "export" / f"{name}.npz", allow_pickle=False) for name in names}
    np.testing.assert_array_equal(files["samples"]["x"], run.samples(3))
    np.testing.assert_array_equal(files["samples"]["means"], run.samples(3, mean=True))
    np.testing.assert_array_equal(files["latents"]["z"], run.latents())
    np.testing.assert_array_equal(files["latents"]["y"], run.labels())
    np.testing.assert_array_equal(files["reconstructions"]["means"], run.reconstructions())
    np.testing.assert_array_equal(files["elbos"]["elbo"], run.elbos())
    results = json.loads((tmp_path / "evaluation.json").read_text())
    assert results["settings"]["mutual_information.examples"] == 10000
    assert -files["log_likelihoods"]["log_px"].mean() == pytest.approx(results["test/nll"], rel=1e-12)
    means = sorted((tmp_path / "export" / "sample_means").iterdir())
    assert [path.name for path in means] == ["0000.png", "0001.png", "0002.png"]
    np.testing.assert_allclose(
        np.asarray(Image.open(means[2])) / 255, run.samples(3, mean=True)[2, 0], atol=0.002
    )


def test_colour_images_are_exported_in_colour(tmp_path):
    x = np.random.default_rng(0).random((2, 3, 5, 7)).astype(np.float32)
    write_images(x, tmp_path / "images")
    write_images(x[:1], tmp_path / "images")
    [path] = (tmp_path / "images").iterdir()
    picture = Image.open(path)
    assert picture.size == (7, 5) and picture.mode == "RGB"
    np.testing.assert_allclose(np.asarray(picture).transpose(2, 0, 1) / 255, x[0], atol=0.002)


@pytest.mark.parametrize(
    "word, said", [("export=sample", "did you mean samples?"), ("export_n=0", "export_n=0")]
)
def test_an_export_without_a_meaning_is_refused(run, word, said, tmp_path):
    assert said in refusal(call("evaluate.py", f"run={run.path}", word, f"output_dir={tmp_path}"))
    assert not [*tmp_path.iterdir()]


def test_a_run_is_loaded_from_its_directory_or_a_checkpoint(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    for place in ("run", Path("run"), "run/checkpoints", "run/checkpoints/best.ckpt"):
        assert latentlab.load(place).checkpoint.resolve() == run.checkpoint.resolve()
