"""`resume=RUN`: the run goes on with its own settings, and everything else is refused by name."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import QUICK, call, refusal
from omegaconf import OmegaConf
from runs import load, same_weights, summary, train

from latentlab.callbacks import Timing
from latentlab.cli import resume
from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory

# Settings that a resumed run once lost unless they were typed again.
LOST = (
    *("trainer.gradient_clip_val=5.0", "trainer.accumulate_grad_batches=2", "callbacks=ema", "figures=none"),
    *("callbacks.ema.decay=0.9", "scheduler=cosine"),
)
SETTINGS = (*(word for word in QUICK if not word.startswith(("callbacks", "trainer.max"))), *LOST)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the files and folders below a folder, with their sizes and times of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    } | {f"{path.relative_to(folder)}/": (0, 0) for path in folder.rglob("*") if path.is_dir()}


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run of four epochs that ended in its third, in a folder with the uninterrupted run."""
    home = tmp_path_factory.mktemp("cut")
    assert call("train.py", *SETTINGS, "trainer.max_epochs=4", f"hydra.run.dir={home}/whole").status == 0

    def end(callback: Timing, trainer: SimpleNamespace, *args: object) -> None:
        if trainer.current_epoch == 2:
            raise SystemExit(143)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timing, "on_train_epoch_start", end)
        done = call("train.py", *SETTINGS, "trainer.max_epochs=4", f"hydra.run.dir={home}/cut")
    assert (done.status, done.err) == (143, f"resume: python train.py resume={home}/cut\n")
    return home


def test_one_word_resumes_the_run_that_was_not_cut_off(cut, monkeypatch):
    before = (cut / "cut" / ".hydra" / "overrides.yaml").read_text()
    monkeypatch.chdir(cut)  # a relative path
    done = call("train.py", "resume=cut")
    assert done.status == 0, done.err
    assert same_weights(cut / "whole", cut / "cut")
    whole, resumed = (load(cut / name / "checkpoints" / "last.ckpt") for name in ("whole", "cut"))
    for part in ("optimizer_states", "lr_schedulers", "averaging_state", "current_model_state"):
        assert str(resumed.get(part)) == str(whole.get(part))
    untimed = [
        {key: value for key, value in summary(cut / name).items() if not key.startswith("time/")}
        for name in ("whole", "cut")
    ]
    assert untimed[0] == untimed[1]
    assert (cut / "cut" / ".hydra" / "overrides.yaml").read_text() == before
    # Once it has finished, there is nothing left to do.
    files = tree(cut / "cut")
    line = refusal(call("train.py", f"resume={cut}/cut"))
    assert "has finished (4 epochs)" in line and "trainer.max_epochs=" in line
    assert tree(cut / "cut") == files


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("model=iwae", "this run has model=vae"),
        ("optimizer.lr=0.1", "this run has 0.001"),
        ("callbacks=ema trainer.max_epochs=9", "callbacks=ema"),
        ("hydra.run.dir=elsewhere", "leave it out"),
        ("experiment=cnn", "this run has no experiment, and a resumed run"),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_is_written(
    small, tmp_path, monkeypatch, words, remedy
):
    monkeypatch.chdir(tmp_path)
    before = tree(small)
    assert remedy in refusal(call("train.py", f"resume={small}", *words.split()))
    assert tree(small) == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("~callbacks.best", "~callbacks.best"),
        ("ckpt_path=x.ckpt", "resume=RUN/checkpoints/NAME.ckpt"),
        ("-m", "leave out one"),
        ("hydra.mode=MULTIRUN", "leave out one"),
        ("--cfg", "config.yaml"),
    ],
)
def test_words_that_do_not_go_with_a_resume(small, word, remedy):
    with pytest.raises(UserError) as refused:
        resume.expand([word, f"resume={small}"])
    assert remedy in str(refused.value)


def test_the_words_of_a_resume_for_hydra(small, monkeypatch):
    monkeypatch.chdir(small)
    words = resume.expand(
        ["resume=checkpoints/last.ckpt", "callbacks.figures.every_n_epochs=2", "logger=none"]
    )
    place = f"{small}/checkpoints/last.ckpt"
    expected = ["++figures.every_n_epochs=2", "logger=none", f"resume='{place}'", f"hydra.run.dir='{small}'"]
    assert words == expected
    assert resume.expand(words) == expected  # a rank reads the words of its parent
    expected = [f"resume='{small}'", f"hydra.run.dir='{small}'"]
    assert resume.expand([f"resume={small}/checkpoints"]) == expected
    assert resume.expand(["model=vae", "resume=null"]) == ["model=vae", "resume=null"]


def test_no_run_is_one_line(tmp_path):
    assert "there is no run here" in refusal(call("train.py", f"resume={tmp_path}/none"))
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert "no checkpoint" in refusal(call("train.py", f"resume={tmp_path}"))


def merged(saved: dict, **composed: object) -> dict:
    words = [f"++{key}=1" if "." in key else f"{key}=x" for key in composed]
    nested = OmegaConf.create({})
    for key, value in composed.items():
        OmegaConf.update(nested, key, value)
    return resume.merge(saved, OmegaConf.to_container(nested), words)


@pytest.fixture
def saved():
    scheduler = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 3}
    return {
        "module": {"model": {}, "scheduler": dict(scheduler)},
        "scheduler": dict(scheduler),
        "trainer": {
            "max_epochs": 3,
            "accelerator": "cpu",
            "devices": 2,
            "strategy": "ddp",
            "precision": "32-true",
        },
        "callbacks": {"figures": {"_target_": "old"}},
        "logger": {},
        "data": {"root": "data"},
        "names": {"model": "vae", "data": "binarised_mnist"},
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("trainer.precision", "64-true", "this run has 32-true"),
        ("seed", 1, "this run has 3"),
        ("data.rot", "x", "did you mean data.root?"),
        ("logger.wandb.project", "x", "logger=wandb"),
        ("experiment", None, "this run has no experiment"),
        ("module", {"model": {"other": 1}}, "another one"),
    ],
)
def test_other_values_are_refused_by_name(saved, key, value, remedy):
    with pytest.raises(UserError) as refused:
        merged(saved, **{key: value})
    assert key in str(refused.value) and remedy in str(refused.value)


def test_a_longer_training_extends_the_cosine(saved):
    config = merged(saved, **{"trainer.max_epochs": 5})
    assert config["module"]["scheduler"]["T_max"] == config["scheduler"]["T_max"] == 5
    saved["module"]["scheduler"]["T_max"] = 10  # chosen by the user
    assert merged(saved, **{"trainer.max_epochs": 5})["module"]["scheduler"]["T_max"] == 10


def test_a_logger_gets_the_names_of_the_run(saved):
    logger = {"w": {"_target_": "w", "name": "${names.model} ${names.data} seed${seed}"}}
    assert merged(saved, logger=logger)["logger"]["w"]["name"] == "vae binarised_mnist seed3"
    saved["names"]["model"] = "${oc.env:HOME}"
    with pytest.raises(UserError, match="no plain value"):
        merged(saved, logger=logger)


def test_devices_figures_and_data_change(saved):
    trainer = {"accelerator": "gpu", "devices": 1, "max_epochs": 50, "precision": "16-mixed"}
    config = merged(saved, trainer=trainer, figures={"_target_": "new"}, **{"data.root": "there"})
    assert config["trainer"] == {"max_epochs": 3, "accelerator": "gpu", "devices": 1, "precision": "32-true"}
    assert config["callbacks"]["figures"] == config["figures"] == {"_target_": "new"}
    assert config["data"]["root"] == "there"


def test_a_checkpoint_of_a_run_and_a_longer_training(small):
    best = RunDirectory(small).best_checkpoint
    done = call("train.py", f"resume={best}", "trainer.max_epochs=2", "optimizer.lr=0.001", "model=vae")
    assert done.status == 0, done.err
    assert OmegaConf.load(small / "config.yaml").trainer.max_epochs == 2
    with (small / "metrics.csv").open() as file:
        validated = [row["epoch"] for row in csv.DictReader(file) if row["val/elbo"] and row["epoch"]]
    assert validated == ["0", "1"]


def test_the_command_that_repeats_all_settings_compares_every_one(cut, tmp_path):
    run = train(tmp_path / "run", "trainer.gradient_clip_val=5.0")
    same = (*QUICK[:3], QUICK[4], "trainer.max_epochs=2", f"hydra.run.dir={run}")
    before, last = tree(run), f"ckpt_path={run}/checkpoints/last.ckpt"
    line = refusal(call("train.py", *same, last))
    assert "trainer.gradient_clip_val=null" in line and "use trainer.gradient_clip_val=5.0" in line
    assert "trainer.accumulate_grad_batches=4" in refusal(
        call("train.py", *same, last, "trainer.gradient_clip_val=5.0", "trainer.accumulate_grad_batches=4")
    )
    assert tree(run) == before


def test_a_run_that_ended_within_an_epoch_resumes_there(tmp_path):
    whole = train(tmp_path / "whole", "+trainer.max_steps=60", "trainer.max_epochs=9")
    parts = train(tmp_path / "parts", "+trainer.max_steps=50", "trainer.max_epochs=9")
    assert summary(parts)["best/step"] == 50
    for more in ((), ("trainer.max_epochs=20",), ("trainer.max_steps=40",)):
        line = refusal(call("train.py", f"resume={parts}", *more))
        assert "has finished (50 steps)" in line and "trainer.max_steps=100" in line
    assert call("train.py", f"resume={parts}", "trainer.max_steps=60").status == 0
    assert same_weights(whole, parts)
    assert summary(parts)["trainer/epochs"] == summary(whole)["trainer/epochs"] == 2
    with (parts / "metrics.csv").open() as file:
        rows = [
            (row["epoch"], row["step"]) for row in csv.DictReader(file) if row["val/elbo"] and row["epoch"]
        ]
    assert rows == [("0", "39"), ("1", "49"), ("1", "59")]


def test_a_run_that_stopped_early_trains_no_further(tmp_path):
    words = ("callbacks=early_stopping", "callbacks.early_stopping.patience=0", "figures=none")
    words = (*words, "callbacks.early_stopping.min_delta=1e6", "trainer.max_epochs=50")
    run = train(tmp_path / "run", *words)
    before = tree(run)
    for more in ((), ("trainer.max_epochs=60",)):
        line = refusal(call("train.py", f"resume={run}", *more))
        assert "stopped early" in line and "after 2 epochs" in line
        assert "callbacks.early_stopping.patience" in line
    assert tree(run) == before
    (run / "summary.json").unlink()  # a run that was killed before its test is tested
    assert call("train.py", f"resume={run}").status == 0
    assert load(run / "checkpoints" / "last.ckpt")["epoch"] == 1
