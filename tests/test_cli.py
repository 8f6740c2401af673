"""The two scripts as users run them: what a run leaves behind, and what it says to mistakes."""

import csv
import json
import math
import shutil
import signal
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from commands import DATA, OFFLINE, QUICK, call, command, needs_mnist, refusal, start
from omegaconf import OmegaConf
from PIL import Image

from latentlab.errors import Diverged, UserError

FIGURES = ("latents", "samples", "sample_means", "reconstructions", "usage")
NUMBERS = {
    *("test/elbo", "test/elbo_stderr", "test/reconstruction", "test/kl", "test/kl_1", "test/num_examples"),
    *("val/elbo", "best/epoch", "model/parameters", "time/train_seconds", "time/examples_per_second", "seed"),
}
WORDS = {"model": "vae", "data": "binarised_digits", "protocol": "threshold"}


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load(run / "checkpoints" / f"{name}.ckpt")["state_dict"]


def same_weights(one: Path, other: Path) -> bool:
    pairs = zip(weights(one).items(), weights(other).items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def train(run: Path, *arguments: str) -> Path:
    """Train in this process; its own experiment where there are no arguments."""
    done = call("train.py", *QUICK, f"hydra.run.dir={run}", *arguments)
    assert done.status == 0, done.err
    return run


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The run of the quickstart, with everything on, in a process of its own."""
    home = tmp_path_factory.mktemp("home")
    arguments = ("model=vae", "data=binarised_digits", "trainer.max_epochs=1", "hydra.run.dir=run")
    done = command("train.py", *arguments, home=home)
    assert done.status == 0, done.err
    return home / "run", done


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small run without figures."""
    return train(tmp_path_factory.mktemp("small") / "run")


# -- What a run says and leaves behind


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "train.py",
            [
                "objective: ",
                "likelihood: ",
                "ckpt_path=RUN/checkpoints/last.ckpt",
                "summary.json",
                "-m model=vae,mog_vae seed=",
            ],
        ),
        ("evaluate.py", ["ckpt_path=RUN/checkpoints/best.ckpt", "nll.samples=5000", "output_dir=DIR"]),
    ],
)
def test_help_is_written_for_this_project(tmp_path, script, words):
    done = command(script, "--help", home=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert all(word in done.out for word in words)
    assert "Powered by Hydra" not in done.out
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_key_says_so_in_one_line(full):
    _, done = full
    assert done.err == ""
    assert [line for line in done.out.splitlines() if "W&B" in line] == [done.out.splitlines()[0]]
    assert done.out.startswith("W&B: no API key found, logging offline to ")
    assert "test/elbo" in done.out and "figures: " in done.out


def test_a_run_leaves_the_files_of_the_contract(full):
    run, _ = full
    files = ["config.yaml", "metrics.csv", "summary.json", "train.log"]
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
    assert {path.stem for path in (run / "figures").iterdir()} == set(FIGURES)
    for name in FIGURES:
        with Image.open(run / "figures" / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) >= 300 and len(picture.getcolors(2**20)) > 10


def test_checkpoints_hold_state_only(full):
    run, _ = full
    for name in ("best", "last"):
        assert all(tensor.isfinite().all() for tensor in weights(run, name).values())


# -- Scoring again


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


def test_small_batches_differ_by_monte_carlo_error_only(full, tmp_path):
    run, _ = full
    place = tmp_path / "new" / "folder"
    arguments = (f"ckpt_path={run}/checkpoints/best.ckpt", "batch_size=7", "figures.draw=false")
    assert call("evaluate.py", *arguments, f"output_dir={place}").status == 0
    found = json.loads((place / "evaluation.json").read_text())
    assert found["test/num_examples"] == 270
    assert 0 < abs(found["test/elbo"] - summary(run)["test/elbo"]) < 1


def test_evaluation_in_a_process_of_its_own_with_nll_and_figures(full, tmp_path):
    run, _ = full
    arguments = (f"ckpt_path={run}/checkpoints/best.ckpt", "nll.samples=20", "output_dir=out")
    done = command("evaluate.py", *arguments, home=tmp_path)
    assert (done.status, done.err) == (0, "")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["test/elbo"] == pytest.approx(summary(run)["test/elbo"], abs=1e-4)
    assert 0 < found["test/nll"] < -found["test/elbo"]
    assert found["test/nll_samples"] == 20 and 0 <= found["test/active_units"] <= 32
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == set(FIGURES)


# -- The same numbers


def test_the_same_command_twice_gives_the_same_numbers(small, tmp_path):
    again = command("train.py", *QUICK, "hydra.run.dir=again", home=tmp_path)
    assert again.status == 0, again.err
    assert summary(tmp_path / "again")["test/elbo"] == summary(small)["test/elbo"]
    assert same_weights(tmp_path / "again", small)


def test_figures_and_loggers_leave_the_numbers_alone(full, tmp_path):
    plain = train(tmp_path / "plain", "encoder.hidden=[512,512]")
    assert same_weights(plain, full[0])


def test_a_sweep_writes_a_run_for_each_seed(tmp_path):
    done = command("train.py", "-m", *QUICK, "seed=1,2", "hydra.sweep.dir=sweep", home=tmp_path)
    assert done.status == 0, done.err
    runs = sorted(path.parent for path in (tmp_path / "sweep").rglob("summary.json"))
    one, two = (summary(run) for run in runs)
    assert {one["seed"], two["seed"]} == {1, 2}
    assert one["test/elbo"] != two["test/elbo"]
    # As if each had been run alone.
    alone = train(tmp_path / "alone", "seed=2")
    assert same_weights(alone, runs[[one["seed"], two["seed"]].index(2)])


def test_a_resumed_run_is_the_run_that_was_not_cut_off(tmp_path):
    whole = train(tmp_path / "whole", "trainer.max_epochs=4")
    parts = train(tmp_path / "parts", "trainer.max_epochs=2")
    last = f"ckpt_path={parts}/checkpoints/last.ckpt"
    done = command("train.py", *QUICK, last, f"hydra.run.dir={parts}", "trainer.max_epochs=4", home=tmp_path)
    assert done.status == 0, done.err
    assert same_weights(whole, parts)
    for name in ("test/elbo", "val/elbo", "best/epoch"):
        assert summary(parts)[name] == summary(whole)[name]
    with (parts / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file) if row["val/elbo"] and row["epoch"]] == list(
            "0123"
        )


# -- Runs that end early


DIVERGES = (
    "scheduler._target_=torch.optim.lr_scheduler.ExponentialLR",
    "~scheduler.factor",
    "~scheduler.total_iters",
    "+scheduler.gamma=1e30",
    "trainer.max_epochs=3",
)


def test_divergence_is_one_line_and_keeps_the_last_good_epoch(tmp_path, monkeypatch):
    codes = []
    monkeypatch.setattr("latentlab.cli.training.finish", lambda loggers, exit_code: codes.append(exit_code))
    run = tmp_path / "run"
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={run}", *DIVERGES), Diverged.status)
    assert "training diverged" in line and "epoch 2" in line and "optimizer.lr" in line
    assert codes == [1]
    for name in ("best", "last"):
        assert load(run / "checkpoints" / f"{name}.ckpt")["epoch"] == 0
        assert all(tensor.isfinite().all() for tensor in weights(run, name).values())
    assert not (run / "summary.json").exists()


def test_divergence_is_the_same_line_with_arguments_checked(tmp_path):
    options = ("optimizer=sgd", "optimizer.lr=1e30", "validate_args=true", f"hydra.run.dir={tmp_path}/run")
    line = refusal(call("train.py", *QUICK, *options), Diverged.status)
    assert "training diverged: parameter " in line and " of a distribution is invalid at epoch 1" in line
    assert "optimizer.lr" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line(tmp_path):
    line = refusal(call("train.py", *QUICK, "trainer=gpu", f"hydra.run.dir={tmp_path}/run"))
    assert "no GPU" in line and "trainer=cpu" in line


def test_nothing_to_score_is_one_line(tmp_path):
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={tmp_path}/run", "trainer.max_epochs=0"))
    assert "nothing to score" in line and "trainer.max_epochs" in line


def wait_for(path: Path, process) -> None:
    for _ in range(600):
        if path.exists() and path.stat().st_size > 0:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")


@pytest.mark.parametrize("after", ["metrics.csv", "checkpoints/last.ckpt"])
def test_sigterm_ends_with_143_and_a_checkpoint_to_resume_from(tmp_path, after):
    """In the first epoch, and later."""
    long = (
        ("data.batch_size=2", "trainer.max_epochs=100")
        if after == "metrics.csv"
        else ("trainer.max_epochs=5000",)
    )
    process = start("train.py", *QUICK, *long, "hydra.run.dir=run", home=tmp_path)
    wait_for(tmp_path / "run" / after, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err == ""
    last = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
    epochs = last["epoch"] + (1 if after == "metrics.csv" else 2)
    resumed = train(
        tmp_path / "run",
        *long[:1],
        f"trainer.max_epochs={epochs}",
        f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt",
    )
    assert load(resumed / "checkpoints" / "last.ckpt")["epoch"] == epochs - 1


# -- Mistakes, each with its one line

REFUSED = {
    "unknown option": ("model=vea", ["model=vea", "did you mean", "model has"]),
    "number for an option": ("model=3", ["model=3: no such option", "model has", "vae"]),
    "null for an option": ("prior=null", ["prior=null: no such option", "standard_normal"]),
    "unknown debug option": ("debug=defalt", ["debug=defalt", "did you mean default?"]),
    "unknown group": ("optimzer=sgd", ["optimzer", "did you mean optimizer?"]),
    "unknown key": ("optimizer.lrr=1", ["optimizer.lrr", "did you mean optimizer.lr?"]),
    "unknown setting": ("sed=1", ["sed", "did you mean seed?"]),
    "unlisted key": ("trainer.strategy=ddp", ["trainer.strategy", "+trainer.strategy=..."]),
    "unknown argument": ("+optimizer.lrr=1", ["optimizer.lrr", "Adam", "did you mean lr?"]),
    "unknown target": ("optimizer._target_=torch.optim.Adm", ["optimizer._target_", "no such class"]),
    "no value": ("model", ["'model'", "key=value"]),
    "wrong type": ("optimizer.lr=abc", ["optimizer.lr=abc", "number"]),
    "text for a number": ("optimizer.lr='3'", ["optimizer.lr='3'", "text", "number"]),
    "number for a whole one": ("model.latent_dim=2.0", ["model.latent_dim=2.0", "whole number"]),
    "wrong type, interpolated": ("seed=abc", ["error: seed=abc", "integer"]),
    "null": ("model.latent_dim=null", ["model.latent_dim=null", "integer"]),
    "no latents": ("model.latent_dim=0", ["model.latent_dim=0", "greater than 0"]),
    "batch size": ("data.batch_size=-1", ["data.batch_size=-1", "greater than 0"]),
    "learning rate": ("optimizer.lr=-1", ["optimizer", "learning rate: -1"]),
    "width": ("encoder.hidden=[0]", ["encoder.hidden", "greater than 0"]),
    "seed": ("seed=-1", ["seed=-1", "greater than or equal to 0"]),
    "clipping": ("trainer.gradient_clip_val=-1", ["trainer.gradient_clip_val=-1", "greater than or equal"]),
    "clipping under mixed precision": (
        "trainer.gradient_clip_val=1 trainer.precision=bf16-mixed",
        ["trainer.gradient_clip_val=1", "optimizer.fused=false"],
    ),
    "accumulation": ("trainer.accumulate_grad_batches=0", ["trainer.accumulate_grad_batches=0"]),
    "device": ("trainer.devices=0", ["devices=0"]),
    "too many validated": ("data.val_size=5000", ["data.val_size=5000", "1527"]),
    "part of the test set": ("+trainer.limit_test_batches=1 data.eval_batch_size=50", ["50 examples of 270"]),
    "nothing to watch": (
        "callbacks=early_stopping data.val_size=0",
        ["callbacks.early_stopping", "data.val_size=0"],
    ),
    "no checkpoint kept": ("~callbacks.best", ["callbacks.best", "leave it in"]),
    "part of another model": ("model=autoencoder prior=mog", ["prior=mog", "autoencoder", "change nothing"]),
    "chain of another model": ("model=vae chain=noised_data", ["chain", "change nothing"]),
    "likelihood": ("data=continuous_digits", ["BernoulliLikelihood", "protocol=threshold"]),
    "options of different models": ("data=earthquakes", ["model.num_components", "do not go together"]),
    "protocol": ("protocol=static", ["protocol=static", "Digits", "threshold"]),
    "unknown data set": (
        "data=binarised_mnist data.dataset=MNST",
        ["data.dataset=MNST", "did you mean MNIST?"],
    ),
    "no key for W&B": ("logger=wandb logger.offline=false", ["logger.offline=false", "wandb login"]),
    "nothing to resume": ("ckpt_path=none.ckpt", ["ckpt_path=none.ckpt", "no such file"]),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("LATENTLAB_DATA", str(tmp_path))
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={tmp_path}/run", *arguments.split()))
    assert [word for word in words if word not in line] == [], line


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    line = refusal(command("train.py", *QUICK, "model.latent_dim=0", home=tmp_path))
    assert line == "error: model.latent_dim=0: input should be greater than 0"


def test_debug_shows_the_traceback(tmp_path):
    place = f"hydra.run.dir={tmp_path}/run"
    with pytest.raises(UserError, match="latent_dim=0"):
        call("train.py", *QUICK, "debug=default", "model.latent_dim=0", place)
    done = command("train.py", *QUICK, "debug=default", "data.val_size=5000", place, home=tmp_path)
    assert done.status == 1 and "Traceback" in done.err and "data.val_size=5000" in done.err


@pytest.mark.parametrize("data", ["binarised_mnist", "static_mnist"])
def test_missing_data_without_network(tmp_path, monkeypatch, data):
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use
    places = (f"data.root={tmp_path}/data", f"hydra.run.dir={tmp_path}/run")
    line = refusal(call("train.py", *QUICK, f"data={data}", *places))
    assert f"{tmp_path}/data" in line and "cannot be downloaded" in line
    assert "data.root" in line and "data=binarised_digits" in line


@needs_mnist
def test_a_damaged_file(tmp_path):
    name = "train-images-idx3-ubyte"
    shutil.copytree(
        Path(DATA, "MNIST", "raw"), tmp_path / "MNIST" / "raw", ignore=shutil.ignore_patterns("*.gz")
    )
    (tmp_path / "MNIST" / "raw" / name).chmod(0o644)
    with (tmp_path / "MNIST" / "raw" / name).open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"damaged")
    arguments = ("data=binarised_mnist", f"data.root={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    line = refusal(call("train.py", *QUICK, *arguments))
    assert name in line and "damaged" in line and "delete it" in line


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_an_output_directory_that_cannot_be_written(small, tmp_path, folder):
    (tmp_path / "file").write_text("")
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={tmp_path}/{folder}"))
    assert f"{tmp_path}/file" in line and "hydra.run.dir=DIR" in line
    checkpoint = f"ckpt_path={small}/checkpoints/best.ckpt"
    line = refusal(call("evaluate.py", checkpoint, f"output_dir={tmp_path}/{folder}"))
    assert f"{tmp_path}/file" in line and "output_dir=DIR" in line


def test_a_directory_that_holds_a_run_is_not_overwritten(small):
    before = summary(small)
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={small}"))
    assert f"{small} already holds a run" in line
    assert f"ckpt_path={small}/checkpoints/last.ckpt" in line and "hydra.run.dir" in line
    assert summary(small) == before


# -- Checkpoints that cannot be read

MISTAKEN = {
    "missing": (lambda good: None, "no such file"),
    "empty": (lambda good: b"", "not a whole checkpoint (0 bytes)"),
    "cut short": (lambda good: good[: len(good) // 2], "not a whole checkpoint"),
    "text": (lambda good: b"hello", "not a whole checkpoint (5 bytes)"),
}


def scripts(run: Path, checkpoint: Path) -> list[list[str]]:
    arguments = f"ckpt_path={checkpoint}"
    return [["evaluate.py", arguments], ["train.py", *QUICK, f"hydra.run.dir={run}", arguments]]


@pytest.fixture
def copied(small, tmp_path):
    shutil.copytree(small, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(("spoil", "words"), MISTAKEN.values(), ids=MISTAKEN)
def test_a_checkpoint_that_cannot_be_read(copied, spoil, words):
    path = copied / "checkpoints" / "spoilt.ckpt"
    content = spoil((copied / "checkpoints" / "last.ckpt").read_bytes())
    if content is not None:
        path.write_bytes(content)
    for command_line in scripts(copied, path):
        line = refusal(call(*command_line))
        assert f"ckpt_path={path}" in line and words in line


def test_a_file_that_holds_no_checkpoint(copied):
    path = copied / "checkpoints" / "spoilt.ckpt"
    torch.save({"weights": torch.zeros(2)}, path)
    for command_line in scripts(copied, path):
        assert "not a whole checkpoint" in refusal(call(*command_line))


def test_a_checkpoint_of_another_model(copied):
    config = OmegaConf.load(copied / "config.yaml")
    config.module.model.latent_dim = 3
    OmegaConf.save(config, copied / "config.yaml")
    line = refusal(call("evaluate.py", f"ckpt_path={copied}/checkpoints/last.ckpt"))
    assert "its weights do not fit" in line


OTHERWISE = [
    ("model.latent_dim=3", ["model.latent_dim=3"]),
    (
        "data=continuous_digits likelihood=continuous_bernoulli",
        ["data=continuous_digits", "binarised_digits"],
    ),
    ("protocol=dynamic", ["protocol._target_", "Threshold"]),
    ("data.val_size=0", ["data.val_size=0", "270"]),
    ("encoder.hidden=[8]", ["encoder.hidden=[8]", "[16]"]),
    ("objective=elbo", ["objective=elbo", "analytic_elbo"]),
    ("optimizer.lr=1e-5", ["optimizer.lr=1e-05", "0.001"]),
    ("seed=7", ["seed=7"]),
]


@pytest.mark.parametrize(("arguments", "words"), OTHERWISE)
def test_a_run_is_not_resumed_as_another_one(copied, arguments, words):
    before = (copied / "config.yaml").read_text()
    options = (f"ckpt_path={copied}/checkpoints/last.ckpt", f"hydra.run.dir={copied}", "trainer.max_epochs=2")
    line = refusal(call("train.py", *QUICK, *options, *arguments.split()))
    assert [word for word in (*words, "resumes with that") if word not in line] == [], line
    assert (copied / "config.yaml").read_text() == before


def test_a_run_that_is_complete_keeps_its_times(copied):
    before = summary(copied)
    checkpoint = f"ckpt_path={copied}/checkpoints/last.ckpt"
    done = call("train.py", *QUICK, checkpoint, f"hydra.run.dir={copied}")
    assert done.status == 0, done.err
    assert summary(copied) == before and before["time/train_seconds"] > 0
    assert f"run: {copied}" in done.out  # no figures were drawn, and none are promised


FOREIGN = [
    "os.system",
    "latentlab.cli.report.json.loads",
    "latentlab.cli.report.Console",
    "latentlab.cli.report.write_json",
    "${x}",
]


@pytest.mark.parametrize("target", FOREIGN)
@pytest.mark.parametrize("part", ["module.model", "data.protocol", "callbacks.progress"])
def test_a_config_that_names_classes_from_elsewhere_builds_nothing(copied, part, target):
    config = OmegaConf.load(copied / "config.yaml")
    OmegaConf.update(config, f"{part}._target_", target)
    (copied / "config.yaml").write_text(OmegaConf.to_yaml(config))
    line = refusal(call("evaluate.py", f"ckpt_path={copied}/checkpoints/best.ckpt"))
    assert f"{part}._target_={target}" in line


@pytest.mark.parametrize("text", ["", "module: [", "seed: 0"])
def test_a_config_that_is_damaged(copied, text):
    (copied / "config.yaml").write_text(text)
    line = refusal(call("evaluate.py", f"ckpt_path={copied}/checkpoints/best.ckpt"))
    assert str(copied / "config.yaml") in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("batch_size=0", "batch_size=0"),
        ("nll.samples=many", "nll.samples=many"),
        ("nll.samples=2 nll.chunk=0", "nll.chunk=0"),
        ("accelerator=abacus", "accelerator=abacus"),
        ("bach_size=3", "did you mean batch_size?"),
        ("model=vdm", "model: no such key or group (--help lists the groups)"),
    ],
)
def test_a_mistake_in_an_evaluation(small, arguments, words):
    line = refusal(call("evaluate.py", f"ckpt_path={small}/checkpoints/best.ckpt", *arguments.split()))
    assert words in line


def test_an_evaluation_needs_a_checkpoint():
    assert "ckpt_path is needed" in refusal(call("evaluate.py"))
