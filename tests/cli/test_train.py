"""A run of train.py and its evaluation: output, files, numbers."""

import csv
import json
import math

import pytest
from commands import call, command
from forks import forked
from omegaconf import OmegaConf
from PIL import Image
from runs import same_weights, summary, train, weights

FIGURES = ("latents", "samples", "sample_means", "reconstructions", "usage")
NUMBERS = {
    *("test/elbo", "test/elbo_stderr", "test/reconstruction", "test/kl", "test/kl_1", "test/num_examples"),
    *("val/elbo", "best/epoch", "model/parameters", "time/train_seconds", "time/examples_per_second", "seed"),
}
WORDS = {"model": "vae", "data": "binarised_digits", "protocol": "threshold"}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The run of the quickstart, with everything on, in its own process."""
    home = tmp_path_factory.mktemp("home")
    arguments = ("model=vae", "data=binarised_digits", "trainer.max_epochs=1", "hydra.run.dir=run")
    done = forked("train.py", *arguments, home=home)
    assert done.status == 0, done.err
    return home / "run", done


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "train.py",
            [
                "objective: ",
                "likelihood: ",
                "resume=RUN",
                "summary.json",
                "-m model=vae,mog_vae seed=",
            ],
        ),
        ("evaluate.py", ["run=RUN", "ckpt_path=FILE", "nll.samples=5000", "output_dir=DIR"]),
    ],
)
def test_help_is_written_for_this_project_and_imports_no_torch(tmp_path, script, words, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # prints every import on standard error
    done = command(script, "--help", home=tmp_path)
    imported = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert done.status == 0 and "hydra" in imported
    assert not imported & {"torch", "pytorch_lightning", "numpy", "matplotlib"}
    assert all(word in done.out for word in words)
    assert "Powered by Hydra" not in done.out
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_key_says_so_in_one_line(full):
    _, done = full
    assert done.err == ""
    assert sum("W&B" in line for line in done.out.splitlines()) == 1
    assert "W&B: no API key found, logging offline" in done.out
    assert "test/elbo" in done.out and "figures: " in done.out


def test_a_run_leaves_the_files_of_the_contract(full):
    run, _ = full
    files = ["config.yaml", "environment.json", "metrics.csv", "summary.json", "train.log"]
    files += ["checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    assert all((run / name).stat().st_size > 0 for name in files)
    assert len(list(run.glob("wandb/offline-run-*/*.wandb"))) == 1
    config = OmegaConf.load(run / "config.yaml")
    assert config.module.model.latent_dim == 32 and "${" not in (run / "config.yaml").read_text()


def test_the_summary_holds_plain_numbers_and_words(full):
    values = summary(full[0])
    assert set(values) >= NUMBERS
    assert all(type(values[name]) in (int, float) and math.isfinite(values[name]) for name in NUMBERS)
    assert {name: values[name] for name in WORDS} == WORDS
    assert values["test/num_examples"] == 270 and values["best/epoch"] == 1
    assert values["test/elbo"] == pytest.approx(values["test/reconstruction"] - values["test/kl"])
    assert -400 < values["test/elbo"] < -100


def test_metrics_are_kept_as_a_table(full):
    run, _ = full
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    validated = [row for row in rows if row["val/elbo"] and row["epoch"]]
    assert len(validated) == 1 and float(validated[0]["val/elbo"]) == summary(run)["val/elbo"]
    assert [int(row["step"]) for row in rows if row["train/elbo"]] == [19, 39]


def test_figures_are_images(full):
    run, _ = full
    drawn = (*FIGURES, "kl_by_unit")
    assert {path.stem for path in (run / "figures").iterdir()} == set(drawn)
    for name in drawn:
        with Image.open(run / "figures" / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) >= 300 and len(picture.getcolors(2**20)) > 10


def test_checkpoints_hold_state_only(full):
    run, _ = full
    for name in ("best", "last"):
        assert all(tensor.isfinite().all() for tensor in weights(run, name).values())


@pytest.mark.parametrize("batch_size", [50, 999])
def test_scoring_again_gives_the_same_bound_whatever_the_batch(full, batch_size):
    run, _ = full
    checkpoint = f"ckpt_path={run}/checkpoints/best.ckpt"
    done = call("evaluate.py", checkpoint, f"batch_size={batch_size}", "figures.draw=false")
    assert (done.status, done.err) == (0, "")
    found, known = json.loads((run / "evaluation.json").read_text()), summary(run)
    for name in ("test/elbo", "test/elbo_stderr", "test/reconstruction", "test/kl", "test/kl_1"):
        assert found[name] == pytest.approx(known[name], abs=1e-4)
    assert found["test/num_examples"] == 270
    assert found["test/bits_per_dim"] == pytest.approx(-found["test/elbo"] / (784 * math.log(2)))
    parts = found["test/mutual_information"], found["test/aggregate_kl"]
    assert sum(parts) == pytest.approx(found["test/kl"], abs=1e-12)
    assert found["test/mutual_information_limit"] == math.log(270)


def test_small_batches_differ_by_monte_carlo_error_only(full, tmp_path):
    run, _ = full
    place = tmp_path / "new" / "folder"
    arguments = (f"ckpt_path={run}/checkpoints/best.ckpt", "batch_size=7", "figures.draw=false")
    assert call("evaluate.py", *arguments, f"output_dir={place}").status == 0
    found = json.loads((place / "evaluation.json").read_text())
    assert found["test/num_examples"] == 270
    assert 0 < abs(found["test/elbo"] - summary(run)["test/elbo"]) < 1
    assert found["test/mutual_information"] + found["test/aggregate_kl"] == pytest.approx(found["test/kl"])


def test_an_evaluation_with_nll_and_figures(full, tmp_path):
    run, _ = full
    arguments = (f"ckpt_path={run}/checkpoints/best.ckpt", "nll.samples=20", f"output_dir={tmp_path}/out")
    done = call("evaluate.py", *arguments)
    assert (done.status, done.err) == (0, "")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["test/elbo"] == pytest.approx(summary(run)["test/elbo"], abs=1e-4)
    assert 0 < found["test/nll"] < -found["test/elbo"]
    assert found["test/nll_samples"] == 20 and 0 <= found["test/active_units"] <= 32
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == set(FIGURES)


def test_figures_and_loggers_leave_the_numbers_alone(full, tmp_path):
    plain = train(tmp_path / "plain", "encoder.hidden=[512,512]")
    assert same_weights(plain, full[0])  # in another process
    assert summary(plain)["test/elbo"] == summary(full[0])["test/elbo"]
