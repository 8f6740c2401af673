"""The autoencoder, trained and scored by its reconstruction."""

import json

import pytest
from commands import QUICK, call, refusal

from latentlab.errors import UserError
from latentlab.models.autoencoder import Autoencoder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder") / "run"
    options = [each for each in QUICK if not each.startswith("callbacks")]
    done = call("train.py", "model=autoencoder", "decoder.hidden=[16]", *options, f"hydra.run.dir={folder}")
    assert done.status == 0, done
    return folder


def test_summary_has_no_bound(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test/reconstruction"] < 0 and summary["test/reconstruction_stderr"] > 0
    assert summary["val/reconstruction"] < 0 and summary["best/epoch"] == 1
    assert not [name for name in summary if "elbo" in name or "kl" in name]
    assert (summary["model"], summary["prior"], summary["objective"]) == (
        "autoencoder",
        "none",
        "reconstruction",
    )


def test_figures_are_those_that_need_no_draws(run):
    drawn = {"latents", "reconstructions", "usage", "kl_by_unit"}
    assert {path.stem for path in (run / "figures").iterdir()} == drawn


def test_evaluation_gives_the_same_and_refuses_a_likelihood(run, tmp_path):
    checkpoint = f"ckpt_path={run}/checkpoints/best.ckpt"
    assert call("evaluate.py", checkpoint, "figures.draw=false", f"output_dir={tmp_path}").status == 0
    summary, found = (
        json.loads(path.read_text()) for path in (run / "summary.json", tmp_path / "evaluation.json")
    )
    assert found["test/reconstruction"] == summary["test/reconstruction"]
    assert "test/bits_per_dim" not in found
    said = refusal(call("evaluate.py", checkpoint, "nll.samples=5", "figures.draw=false"))
    assert "nll.samples=5: Autoencoder has no bound" in said


def test_a_bound_is_refused(tmp_path):
    said = refusal(
        call("train.py", "model=autoencoder", "objective=elbo", *QUICK, f"hydra.run.dir={tmp_path}")
    )
    assert "needs the log-densities of drawn latents, and Autoencoder has none" in said


def test_early_stopping_watches_the_reconstruction(tmp_path):
    options = [each for each in QUICK if not each.startswith("callbacks")]
    done = call(
        "train.py",
        "model=autoencoder",
        "callbacks=early_stopping",
        "figures=none",
        *options,
        f"hydra.run.dir={tmp_path}/run",
    )
    assert done.status == 0, done


def test_nothing_is_generated():
    with pytest.raises(UserError, match="no distribution of its latents to draw from"):
        Autoencoder.generate(None, 3)
    with pytest.raises(UserError, match="no distribution p\\(z\\)"):
        Autoencoder.sample_latents(None, 3)
